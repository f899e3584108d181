//! Tells the coordinator how a run goes, and the run when to stop.

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use likeness_proto::{Evaluation, v1};
use likeness_worker::Task;
use tracing::Span;

use super::{previewer, saver};
use crate::{Checkpoint, Observer, Snapshot};

/// Moments that the rate is measured over.
const RATE_MOMENTS: usize = 20;
/// Steps that are told within it were done one after the other elsewhere, and count as one moment.
const MOMENT: Duration = Duration::from_millis(5);

/// Watches a run for a task.
pub(crate) struct Watcher {
    task: Task,
    checkpoints: saver::Inbox,
    previews: previewer::Inbox,
    span: Span,
    step: u32,
    /// How many steps were done when.
    done: VecDeque<(u32, Instant)>,
}

impl Watcher {
    /// `span`: what spans about the run are children of.
    pub(crate) fn new(task: Task, checkpoints: saver::Inbox, previews: previewer::Inbox, span: Span) -> Self {
        Self { task, checkpoints, previews, span, step: 0, done: VecDeque::new() }
    }

    fn report(&self, losses: Vec<f32>, evaluations: Vec<v1::Evaluation>) {
        let report = v1::TrainReport {
            step: self.step,
            steps_per_second: self.rate(),
            losses,
            evaluations,
            ..Default::default()
        };
        self.task.report(v1::renewal::Progress::Train(report));
    }

    /// Steps a second over the newest steps; 0 before the second.
    fn rate(&self) -> f32 {
        match (self.done.front(), self.done.back()) {
            (Some((from, first)), Some((to, last))) if last > first => {
                (to - from) as f32 / (*last - *first).as_secs_f32()
            }
            _ => 0.0,
        }
    }
}

impl Observer for Watcher {
    fn proceed(&mut self) -> ControlFlow<()> {
        match self.task.stop().requested() {
            None => ControlFlow::Continue(()),
            Some(_) => ControlFlow::Break(()),
        }
    }

    fn stepped(&mut self, step: u32, loss: f32) {
        self.step = step;
        let now = Instant::now();
        match self.done.back_mut() {
            Some((done, when)) if now.duration_since(*when) < MOMENT => *done = step,
            _ => self.done.push_back((step, now)),
        }
        if self.done.len() > RATE_MOMENTS {
            self.done.pop_front();
        }
        self.report(vec![loss], Vec::new());
    }

    fn evaluated(&mut self, evaluation: Evaluation) {
        self.step = evaluation.step;
        self.report(Vec::new(), vec![v1::Evaluation { step: evaluation.step, loss: evaluation.loss }]);
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) {
        self.checkpoints.send_replace(Some(checkpoint));
    }

    fn preview(&mut self, snapshot: Snapshot) {
        self.previews.send_replace(Some(snapshot));
    }

    fn span(&self) -> Span {
        self.span.clone()
    }
}
