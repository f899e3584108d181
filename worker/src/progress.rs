//! What a task has to tell with its next renewal.

use likeness_proto::v1;
use tokio::sync::oneshot;
use tracing::error;

use v1::renewal::Progress as Report;

/// What has not been told yet, merged; later reports come after earlier ones.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    report: Option<Report>,
    /// Told when the checkpoint in `report`, or a later one, is recorded.
    recorded: Vec<oneshot::Sender<()>>,
}

impl Progress {
    /// Adds a report. One with a number that is not finite is a bug of the work, and would be refused with all that it
    /// travels with.
    pub(crate) fn add(&mut self, report: Report) {
        match sane(report) {
            Some(report) => self.report = Some(merged(self.report.take(), report)),
            None => error!("report with a number that is not finite, dropped"),
        }
    }

    /// Adds a checkpoint to commit; the receiver hears when it, or a later one, is recorded.
    pub(crate) fn commit(&mut self, checkpoint: v1::Checkpoint) -> oneshot::Receiver<()> {
        let (recorded, heard) = oneshot::channel();
        let report = self.of_training(checkpoint.step);
        self.report = Some(Report::Train(v1::TrainReport { checkpoint: Some(checkpoint), ..report }));
        self.recorded.push(recorded);
        heard
    }

    /// Adds vectors to draw a preview with, in place of earlier ones.
    pub(crate) fn preview(&mut self, snapshot: v1::Snapshot) {
        let report = self.of_training(snapshot.step);
        self.report = Some(Report::Train(v1::TrainReport { preview: Some(snapshot), ..report }));
    }

    /// Takes a training's report; where there is none, one that tells no more than that so many steps are done.
    fn of_training(&mut self, step: u32) -> v1::TrainReport {
        match self.report.take() {
            Some(Report::Train(report)) => report,
            Some(Report::Render(_)) | None => v1::TrainReport { step, ..Default::default() },
        }
    }

    /// Takes all that is to be told.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Puts back what was taken and not answered, before what came since.
    pub(crate) fn put_back(&mut self, taken: Self) {
        let Some(earlier) = taken.report else { return };
        self.report = Some(match self.report.take() {
            Some(later) => merged(Some(earlier), later),
            None => earlier,
        });
        self.recorded.extend(taken.recorded);
    }

    /// What to send.
    pub(crate) fn report(&self) -> Option<Report> {
        self.report.clone()
    }

    /// The coordinator has recorded all this.
    pub(crate) fn answered(self) {
        for recorded in self.recorded {
            let _ = recorded.send(()); // nobody waits for it any more: as well
        }
    }

    /// What is left of a training's losses at its end, for the result.
    pub(crate) fn into_last(self, last: Option<v1::TrainReport>) -> Option<v1::TrainReport> {
        let untold = match self.report {
            Some(Report::Train(report)) => Some(v1::TrainReport { checkpoint: None, preview: None, ..report }),
            Some(Report::Render(_)) | None => None,
        };
        match (untold, last) {
            (Some(earlier), Some(later)) => Some(after(earlier, later)),
            (untold, last) => last.or(untold),
        }
    }
}

fn merged(earlier: Option<Report>, later: Report) -> Report {
    match (earlier, later) {
        (Some(Report::Train(earlier)), Report::Train(later)) => Report::Train(after(earlier, later)),
        (_superseded, later) => later,
    }
}

/// `later` with what `earlier` knows more. Losses are those of the steps that end with `step`, so that they are only
/// joined without a hole. One that only brings an object, made some steps ago, takes back nothing that is known of later ones.
fn after(earlier: v1::TrainReport, later: v1::TrainReport) -> v1::TrainReport {
    if later.losses.is_empty() && later.evaluations.is_empty() && later.step <= earlier.step {
        let (checkpoint, preview) = (later.checkpoint.or(earlier.checkpoint), later.preview.or(earlier.preview));
        return v1::TrainReport { checkpoint, preview, ..earlier };
    }
    let begins = later.step as usize - later.losses.len().min(later.step as usize);
    let joins = begins == earlier.step as usize;
    let mut losses = if joins { earlier.losses } else { Vec::new() };
    losses.extend(later.losses);
    let mut evaluations = earlier.evaluations;
    evaluations.extend(later.evaluations);
    v1::TrainReport {
        step: later.step,
        steps_per_second: later.steps_per_second,
        losses,
        evaluations,
        checkpoint: later.checkpoint.or(earlier.checkpoint),
        preview: later.preview.or(earlier.preview),
    }
}

/// The report, if it can be told; a rate that could not be measured is none.
fn sane(report: Report) -> Option<Report> {
    let Report::Train(mut train) = report else { return Some(report) };
    if !(train.steps_per_second.is_finite() && train.steps_per_second >= 0.0) {
        train.steps_per_second = 0.0;
    }
    let mut told = train.losses.iter().copied().chain(train.evaluations.iter().map(|evaluation| evaluation.loss));
    told.all(f32::is_finite).then_some(Report::Train(train))
}

#[cfg(test)]
mod tests;
