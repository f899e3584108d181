//! Shows how a job goes: a bar for each busy subject on a terminal, plain lines elsewhere.

mod bars;
mod lines;

use crate::telemetry::Console;
use bars::Bars;
use likeness_proto::v1::{self, SubjectState};
use lines::Lines;
use std::collections::HashSet;

/// Follows one job on standard error.
#[derive(Debug)]
pub struct JobProgress {
    console: Console,
    display: Display,
    /// Warnings, errors and previews that were told already, by subject and message.
    told: HashSet<(String, String)>,
}

#[derive(Debug)]
enum Display {
    Bars(Bars),
    Lines(Lines),
}

impl JobProgress {
    /// Shows nothing yet.
    #[must_use]
    pub fn new(console: &Console) -> Self {
        let display = match console.bars() {
            Some(bars) => Display::Bars(Bars::new(bars.clone())),
            None => Display::Lines(Lines::default()),
        };
        Self { console: console.clone(), display, told: HashSet::new() }
    }

    /// Shows the job as it stands.
    pub fn show(&mut self, job: &v1::Job) {
        for subject in &job.subjects {
            self.tell_news(subject);
        }
        match &mut self.display {
            Display::Bars(bars) => bars.show(job),
            Display::Lines(lines) => {
                for line in lines.of(job) {
                    self.console.say(line);
                }
            }
        }
    }

    /// Warnings, the error and previews of a subject, each once.
    fn tell_news(&mut self, subject: &v1::SubjectProgress) {
        let warnings = subject.warnings.iter().map(|warning| format!("warning: {}", warning.message));
        let error = subject.error.iter().map(|error| format!("error: {}", error.message));
        let previews = subject.previews.iter().map(|preview| format!("preview of step {} drawn", preview.step));
        for news in warnings.chain(error).chain(previews) {
            if self.told.insert((subject.subject.clone(), news.clone())) {
                self.console.say(format!("{}: {news}", subject.subject));
            }
        }
    }
}

/// Where a subject stands, as one line.
fn line(subject: &v1::SubjectProgress) -> String {
    match subject.state() {
        SubjectState::Unspecified | SubjectState::Queued => "waiting".to_owned(),
        SubjectState::Training => training(&subject.training.unwrap_or_default()),
        SubjectState::Rendering => {
            let rendering = subject.rendering.unwrap_or_default();
            format!("avatar {}/{}", rendering.avatars_done, rendering.avatars_total)
        }
        SubjectState::Assembling => "making the contact sheet".to_owned(),
        SubjectState::Succeeded => "done".to_owned(),
        SubjectState::Failed => "failed".to_owned(),
        SubjectState::Cancelled => "cancelled".to_owned(),
    }
}

fn training(training: &v1::TrainProgress) -> String {
    let mut text = format!("step {}/{}", training.step, training.max_steps);
    if training.step > 0 {
        text += &format!(", loss {:.4}", training.loss);
    }
    if training.evaluation_loss > 0.0 {
        text += &format!(", evaluation {:.4}", training.evaluation_loss);
    }
    if let Some(left) = seconds_left(training) {
        text += &format!(", {:.1} steps/s, {left} s left at most", training.steps_per_second);
    }
    text
}

/// Seconds until the last step, should training go on that long.
fn seconds_left(training: &v1::TrainProgress) -> Option<u64> {
    let left = f64::from(training.max_steps.saturating_sub(training.step));
    let seconds = left / f64::from(training.steps_per_second);
    seconds.is_finite().then_some(seconds.ceil() as u64)
}

#[cfg(test)]
mod tests;
