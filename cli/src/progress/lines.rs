//! Progress as plain lines, for files and pipes: few enough to read.

use super::line;
use likeness_proto::v1::{self, SubjectState};
use std::collections::HashMap;

/// A line is told every this share of the training.
const PARTS: u32 = 10;

/// Remembers what was told of each subject.
#[derive(Debug, Default)]
pub(super) struct Lines(HashMap<String, (SubjectState, u32)>);

impl Lines {
    /// The lines that are news.
    pub(super) fn of(&mut self, job: &v1::Job) -> Vec<String> {
        job.subjects.iter().filter_map(|subject| self.news(subject)).collect()
    }

    fn news(&mut self, subject: &v1::SubjectProgress) -> Option<String> {
        let now = (subject.state(), part(subject));
        let before = self.0.insert(subject.subject.clone(), now);
        (before != Some(now)).then(|| format!("{}: {}", subject.subject, line(subject)))
    }
}

/// How far the subject is in what it does.
fn part(subject: &v1::SubjectProgress) -> u32 {
    match subject.state() {
        SubjectState::Training => {
            let training = subject.training.unwrap_or_default();
            training.step * PARTS / training.max_steps.max(1)
        }
        SubjectState::Rendering => subject.rendering.unwrap_or_default().avatars_done,
        SubjectState::Unspecified
        | SubjectState::Queued
        | SubjectState::Assembling
        | SubjectState::Succeeded
        | SubjectState::Failed
        | SubjectState::Cancelled => 0,
    }
}
