//! The list of jobs.

use likeness_proto::v1::{Job, JobState, SubjectState};
use maud::{Markup, html};

use super::layout::{Frame, page};
use super::words::{bar, chip, count, moment, of_job, share, short, standing};

/// Names of a job's subjects that its title says.
const NAMED: usize = 3;

pub(in crate::page) fn jobs(frame: Frame<'_>, jobs: &[Job]) -> Markup {
    let body = html! {
        h1 { "Jobs" }
        div #jobs data-live {
            @if jobs.is_empty() {
                p.empty { "No jobs yet. " code { "likeness submit" } " makes one." }
            } @else {
                ul.rows { @for job in jobs { li { (row(job)) } } }
            }
        }
    };
    page(&frame, body)
}

fn row(job: &Job) -> Markup {
    let (word, tone) = of_job(job.state());
    html! {
        h2 { a href={ "/jobs/" (job.id) } { (title(job)) } }
        (chip(word, tone))
        p.said { (said(job)) }
        p.meta { (moment(job.submitted_at.as_ref())) " · " span.id { (short(&job.id)) } }
        @if let Some(share) = progress(job) { (bar(&format!("Progress of job {}", short(&job.id)), share)) }
    }
}

/// Whose avatars a job makes.
pub(super) fn title(job: &Job) -> Markup {
    let rest = job.subjects.len().saturating_sub(NAMED);
    html! {
        @for (index, subject) in job.subjects.iter().take(NAMED).enumerate() {
            @if index > 0 { ", " }
            bdi { (subject.subject) }
        }
        @if rest > 0 { " and " (rest) " more" }
    }
}

fn said(job: &Job) -> String {
    if let [subject] = &job.subjects[..] {
        return standing(subject);
    }
    let done = job.subjects.iter().filter(|subject| subject.state() == SubjectState::Succeeded).count();
    format!("{done} of {} done", count(job.subjects.len() as u64, "subject"))
}

/// How far a job is that goes on: of one subject its own measure, of several how many have ended.
fn progress(job: &Job) -> Option<(u32, u32)> {
    if job.state() != JobState::Running {
        return None;
    }
    if let [subject] = &job.subjects[..] {
        return share(subject);
    }
    let ended = |state| matches!(state, SubjectState::Succeeded | SubjectState::Failed | SubjectState::Cancelled);
    let ended = job.subjects.iter().filter(|subject| ended(subject.state())).count();
    Some((ended as u32, job.subjects.len() as u32))
}

/// Where a job's changes are told, while it has any.
pub(in crate::page) fn job_events(job: &Job) -> Option<String> {
    let goes_on = matches!(job.state(), JobState::Queued | JobState::Running);
    goes_on.then(|| format!("/jobs/{}/events?since={}", job.id, job.revision))
}
