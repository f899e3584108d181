//! Subjects.

use likeness_proto::v1::{Capacity, Subject};
use maud::{Markup, html};

use super::course::{pictures, place};
use super::layout::{Frame, page};
use super::words::{count, moment, short, size};

/// Subjects of the list.
const MOST: usize = 500;

pub(in crate::page) fn subjects(frame: Frame<'_>, subjects: &[Subject]) -> Markup {
    let rest = subjects.len().saturating_sub(MOST);
    let body = html! {
        h1 { "Subjects" }
        @if subjects.is_empty() { p.empty { "No subjects yet. " code { "likeness submit" } " puts one." } }
        ul.grid { @for subject in subjects.iter().take(MOST) { li { (card(subject)) } } }
        @if rest > 0 { p.hint { "And " (count(rest as u64, "more subject")) "." } }
    };
    page(&frame, body)
}

fn card(subject: &Subject) -> Markup {
    let first = subject.photos.iter().find_map(|photo| Some((photo, photo.object.as_ref()?)));
    html! {
        a.card href={ "/subjects/" (subject.name) } {
            @if let Some((photo, object)) = first {
                // The name follows.
                img src=(place(object)) alt="" loading="lazy" decoding="async" width=(photo.width) height=(photo.height);
            }
            h2 { bdi { (subject.name) } }
        }
        p.meta { (count(subject.photos.len() as u64, "photo")) @if subject.embedding.is_some() { " · learned" } }
    }
}

pub(in crate::page) fn subject(frame: Frame<'_>, subject: &Subject) -> Markup {
    let body = html! {
        p.up { a href="/subjects" { "All subjects" } }
        h1 { bdi { (subject.name) } }
        div.facts { p.meta { (count(subject.photos.len() as u64, "photo")) ", put " (moment(subject.stored_at.as_ref())) } }
        h2 { "Photos" }
        (pictures(&subject.photos, &subject.name))
        @if let Some(embedding) = &subject.embedding {
            h2 { "What was learned" }
            p { "The newest embedding has " (count(u64::from(embedding.vectors), "vector")) " and is of job "
                a.id href={ "/jobs/" (embedding.job_id) } { (short(&embedding.job_id)) } "." }
            @if let Some(object) = &embedding.object {
                p { a href=(place(object)) { "Download it" } " (" (size(object.size)) ")" }
            }
        }
        @if let Some(consent) = &subject.consent {
            h2 { "Consent" }
            blockquote { p { bdi { (consent.statement) } } }
            p.meta { "Attested by " bdi { (consent.attested_by) } ", " (capacity(consent.capacity())) "." }
        }
    };
    page(&frame, body)
}

fn capacity(capacity: Capacity) -> &'static str {
    match capacity {
        Capacity::Self_ => "the subject in person",
        Capacity::Guardian => "a parent or guardian",
        Capacity::Licensee => "to whom the subject gave a licence",
        Capacity::Unspecified => "in a capacity that was not said",
    }
}
