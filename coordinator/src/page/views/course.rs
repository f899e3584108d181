//! A job, and a subject's way through it: photos, loss curve, previews, avatars, contact sheet.

use likeness_proto::v1::{
    Avatar, Job, LossCurve, ObjectRef, Photo, Preview, StopReason, SubjectProgress, SubjectState, Warning,
};
use maud::{Markup, html};

use super::curve::curve;
use super::jobs::title;
use super::layout::{Frame, page, sentence};
use super::words::{bar, chip, count, grouped, moment, of_job, of_subject, prompted, share, span, standing};

/// Pictures of one kind on a page, and subjects of a list.
const MOST: usize = 200;
const MOST_SUBJECTS: usize = 500;

/// What there is to see of a subject of a job.
pub(in crate::page) struct Seen {
    pub(in crate::page) progress: SubjectProgress,
    pub(in crate::page) photos: Vec<Photo>,
    pub(in crate::page) losses: LossCurve,
}

/// A job; `seen` are its subjects, or none where each has a page of its own.
pub(in crate::page) fn job(frame: Frame<'_>, job: &Job, seen: &[Seen]) -> Markup {
    let body = html! {
        (head(job, title(job)))
        @if seen.is_empty() {
            h2 { "Subjects" }
            div #subjects data-live { (list(job)) }
        }
        @for (index, seen) in seen.iter().enumerate() {
            section aria-labelledby={ "subject-" (index) } {
                @if let [_, _, ..] = seen_names(job)[..] {
                    h2 id={ "subject-" (index) } { bdi { (seen.progress.subject) } }
                } @else {
                    h2.sr id={ "subject-" (index) } { "Subject " bdi { (seen.progress.subject) } }
                }
                (way(job, seen, index))
            }
        }
        (asked(job))
    };
    page(&frame, body)
}

fn seen_names(job: &Job) -> Vec<&str> {
    job.subjects.iter().map(|subject| subject.subject.as_str()).collect()
}

/// One subject of a job of many.
pub(in crate::page) fn course(frame: Frame<'_>, job: &Job, seen: &Seen) -> Markup {
    let body = html! {
        p.up { a href={ "/jobs/" (job.id) } { "The whole job" } }
        (head(job, html! { bdi { (seen.progress.subject) } }))
        section aria-labelledby="results" { h2 #results.sr { "Results" } (way(job, seen, 0)) }
    };
    page(&frame, body)
}

fn head(job: &Job, title: Markup) -> Markup {
    let (word, tone) = of_job(job.state());
    html! {
        h1 { (title) }
        div.facts {
            // Read out when it changes, which is a few times in a job's life.
            div #state data-live role="status" { span.sr { "The job’s state: " } (chip(word, tone)) }
            p.meta { "Submitted " (moment(job.submitted_at.as_ref())) }
            p.meta #ended data-live { @if job.ended_at.is_some() { "Ended " (moment(job.ended_at.as_ref())) } }
            p.meta.id { (job.id) }
        }
    }
}

fn list(job: &Job) -> Markup {
    let rest = job.subjects.len().saturating_sub(MOST_SUBJECTS);
    html! {
        ul.rows {
            @for subject in job.subjects.iter().take(MOST_SUBJECTS) {
                @let (word, tone) = of_subject(subject.state());
                li {
                    h3 { a href={ "/jobs/" (job.id) "/subjects/" (subject.subject) } { bdi { (subject.subject) } } }
                    (chip(word, tone))
                    p.said { (standing(subject)) }
                    @if let Some(share) = share(subject) { (bar(&format!("Progress of {}", subject.subject), share)) }
                }
            }
        }
        @if rest > 0 { p.hint { "And " (count(rest as u64, "more subject")) "; " code { "likeness show" } " lists them all." } }
    }
}

fn way(job: &Job, seen: &Seen, index: usize) -> Markup {
    let Seen { progress, photos, losses } = seen;
    let (word, tone) = of_subject(progress.state());
    let region = |name: &str| format!("{name}-{index}");
    html! {
        div.standing id=(region("standing")) data-live {
            p { (chip(word, tone)) " " (standing(progress)) }
            @if let Some(share) = share(progress) { (bar(&format!("Progress of {}", progress.subject), share)) }
            @for warning in &progress.warnings { (note(warning)) }
        }
        h3 { "Photos" }
        (pictures(photos, &progress.subject))
        @if progress.training.is_some() || !losses.losses.is_empty() {
            h3 { "Learning" }
            div id=(region("learning")) data-live {
                (outcome(progress))
                (curve(&region("curve"), &progress.subject, losses)
                    .unwrap_or_else(|| html! { p.empty { "Nothing has been learned yet." } }))
            }
        }
        @if job.train.as_ref().is_some_and(|train| train.previews() > 0) {
            h3 { "Previews" }
            div id=(region("previews")) data-live { (previews(job, progress)) }
        }
        h3 { "Avatars" }
        div id=(region("avatars")) data-live { (avatars(job, progress)) }
        h3 { "Contact sheet" }
        div id=(region("sheet")) data-live { (sheet(progress)) }
    }
}

fn note(warning: &Warning) -> Markup {
    html! { p.note { (sentence(&warning.message)) } }
}

/// Photos as they are stored.
pub(super) fn pictures(photos: &[Photo], subject: &str) -> Markup {
    if photos.is_empty() {
        return html! { p.empty { "There are none any more." } };
    }
    html! {
        ul.grid.small {
            @for photo in photos.iter().take(MOST) {
                @if let Some(object) = &photo.object {
                    li {
                        a href=(place(object)) {
                            img src=(place(object)) loading="lazy" decoding="async" width=(photo.width) height=(photo.height)
                                alt={ "Photo of " (subject) ", " (photo.file_name) @if !photo.caption.is_empty() {
                                    ": " (prompted(&photo.caption, subject)) } };
                        }
                    }
                }
            }
        }
        @if photos.len() > MOST { p.hint { "And " (count((photos.len() - MOST) as u64, "more photo")) "." } }
    }
}

fn outcome(progress: &SubjectProgress) -> Markup {
    let Some(trained) = &progress.trained else { return html! {} };
    let why = match trained.stop_reason() {
        StopReason::Converged => "it no longer got better",
        StopReason::MaxSteps => "all steps were done",
        StopReason::Unspecified => "it ended",
    };
    html! {
        p { "Learned in " (count(u64::from(trained.steps), "step")) " and " (span(trained.seconds)) "; stopped because " (why) "." }
        @if let Some(object) = progress.embedding.as_ref().and_then(|embedding| embedding.object.as_ref()) {
            p { a href=(place(object)) { "Download the embedding" } }
        }
    }
}

/// How the first avatar looked while the subject was being learned.
fn previews(job: &Job, progress: &SubjectProgress) -> Markup {
    if progress.previews.is_empty() {
        return html! { p.empty { (why_no_preview(progress)) } };
    }
    let (width, height) = size(job);
    html! {
        ul.grid.small {
            @for Preview { step, object } in &progress.previews {
                @if let Some(object) = object {
                    @let step = grouped(u64::from(*step));
                    li {
                        figure {
                            a href=(place(object)) {
                                img src=(place(object)) loading="lazy" decoding="async" width=(width) height=(height)
                                    alt={ "Preview of " (progress.subject) ", made by a model after step " (step) };
                            }
                            figcaption { "Step " (step) }
                        }
                    }
                }
            }
        }
    }
}

fn why_no_preview(progress: &SubjectProgress) -> &'static str {
    match progress.state() {
        SubjectState::Queued | SubjectState::Training => {
            "None are drawn yet. They wait until nothing else is to be drawn."
        }
        _later => "None were drawn while it was being learned.",
    }
}

fn size(job: &Job) -> (u32, u32) {
    job.render.as_ref().map_or((512, 512), |render| (render.width(), render.height()))
}

fn avatars(job: &Job, progress: &SubjectProgress) -> Markup {
    if progress.avatars.is_empty() {
        return html! { p.empty { "None are finished yet." } };
    }
    let (width, height) = size(job);
    let rest = progress.avatars.len().saturating_sub(MOST);
    html! {
        ul.grid {
            @for Avatar { object, prompt, seed, .. } in progress.avatars.iter().take(MOST) {
                @if let Some(object) = object {
                    @let text = prompted(prompt, &progress.subject);
                    li {
                        figure {
                            a href=(place(object)) {
                                img src=(place(object)) loading="lazy" decoding="async" width=(width) height=(height)
                                    alt={ "Avatar, made by a model: " (text) ", seed " (seed) };
                            }
                            figcaption { bdi { (text) } span.seed { " seed " (seed) } }
                        }
                    }
                }
            }
        }
        @if rest > 0 { p.hint { "And " (count(rest as u64, "more avatar")) "; " code { "likeness fetch" } " gets them all." } }
    }
}

fn sheet(progress: &SubjectProgress) -> Markup {
    let Some(object) = &progress.contact_sheet else {
        return html! { p.empty { "It is made when all avatars are there." } };
    };
    html! {
        a.sheet href=(place(object)) {
            img src=(place(object)) loading="lazy" decoding="async"
                alt={ "Contact sheet of " (progress.subject) ": photos above, avatars with their prompts below" };
        }
    }
}

/// What the job asked for, with every default.
fn asked(job: &Job) -> Markup {
    let Some(render) = &job.render else { return html! {} };
    html! {
        details.asked {
            summary { "What was asked for" }
            dl {
                dt { "Prompts" }
                @for prompt in &render.prompts {
                    dd { bdi { (prompt.text) } ", " (count(prompt.seeds.len() as u64, "seed")) }
                }
                @if !render.negative_prompt.is_empty() { dt { "Not to be seen" } dd { bdi { (render.negative_prompt) } } }
                dt { "Pictures" }
                dd { (render.width()) " × " (render.height()) " pixels, " (render.steps()) " steps, guidance " (render.guidance()) }
                @if let Some(train) = &job.train {
                    dt { "Learning" }
                    dd { "at most " (count(u64::from(train.max_steps()), "step")) " of " (count(u64::from(train.batch_size()), "sample"))
                         ", at " (train.resolution()) " pixels" }
                }
                dt { "Priority" } dd { (job.priority) }
                dt { "Base model" } dd.id { (job.base_model) }
            }
        }
    }
}

/// Where an object is shown.
pub(super) fn place(object: &ObjectRef) -> String {
    format!("/objects/{}", object.key)
}
