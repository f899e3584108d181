//! Progress as live bars.

use super::line;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use likeness_proto::v1::{self, SubjectState};
use std::collections::HashMap;

/// Bars at most: subjects beyond it are counted in the last line.
const SHOWN: usize = 12;
const BAR: &str = "{prefix:>14} {bar:24.cyan/dim} {msg}";
const COUNT: &str = "{msg}";

/// A bar for each subject that is busy, and a count of all when there are many.
#[derive(Debug)]
pub(super) struct Bars {
    area: MultiProgress,
    bars: HashMap<String, ProgressBar>,
    count: Option<ProgressBar>,
}

impl Bars {
    pub(super) fn new(area: MultiProgress) -> Self {
        Self { area, bars: HashMap::new(), count: None }
    }

    pub(super) fn show(&mut self, job: &v1::Job) {
        for subject in &job.subjects {
            self.show_subject(subject);
        }
        if job.subjects.len() > SHOWN {
            self.show_count(job);
        }
    }

    fn show_subject(&mut self, subject: &v1::SubjectProgress) {
        let known = self.bars.contains_key(&subject.subject);
        if !known && (self.running() >= SHOWN || idle(subject.state())) {
            return;
        }
        let bar = self.bars.entry(subject.subject.clone()).or_insert_with(|| new_bar(&self.area, &subject.subject));
        if bar.is_finished() {
            return;
        }
        let (done, total) = extent(subject);
        bar.set_message(line(subject));
        bar.set_length(total);
        bar.set_position(done);
        if ended(subject.state()) {
            bar.finish();
        }
    }

    fn show_count(&mut self, job: &v1::Job) {
        let done = job.subjects.iter().filter(|subject| ended(subject.state())).count();
        let count =
            self.count.get_or_insert_with(|| self.area.add(ProgressBar::new_spinner().with_style(style(COUNT))));
        count.set_message(format!("{done} of {} subjects have ended", job.subjects.len()));
        if done == job.subjects.len() {
            count.finish();
        }
    }

    fn running(&self) -> usize {
        self.bars.values().filter(|bar| !bar.is_finished()).count()
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // They are in the way of whatever is printed next. A terminal that is gone needs no clearing.
        let _ = self.area.clear();
    }
}

fn new_bar(area: &MultiProgress, name: &str) -> ProgressBar {
    area.add(ProgressBar::new(1).with_style(style(BAR).progress_chars("━╸─")).with_prefix(name.to_owned()))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// How far the subject is in what it does, and how far that goes.
fn extent(subject: &v1::SubjectProgress) -> (u64, u64) {
    match subject.state() {
        SubjectState::Training => {
            let training = subject.training.unwrap_or_default();
            (training.step.into(), training.max_steps.max(1).into())
        }
        SubjectState::Rendering => {
            let rendering = subject.rendering.unwrap_or_default();
            (rendering.avatars_done.into(), rendering.avatars_total.max(1).into())
        }
        SubjectState::Succeeded | SubjectState::Assembling => (1, 1),
        SubjectState::Unspecified | SubjectState::Queued | SubjectState::Failed | SubjectState::Cancelled => (0, 1),
    }
}

fn idle(state: SubjectState) -> bool {
    matches!(state, SubjectState::Unspecified | SubjectState::Queued) || ended(state)
}

fn ended(state: SubjectState) -> bool {
    matches!(state, SubjectState::Succeeded | SubjectState::Failed | SubjectState::Cancelled)
}
