//! Tells the coordinator how a run goes, and the run when to stop.

use std::{collections::VecDeque, ops::ControlFlow, time::Instant};

use likeness_proto::{Evaluation, v1};
use likeness_worker::Task;

use super::saver::Inbox;
use crate::{Checkpoint, Observer};

/// Steps that the rate is measured over.
const RATE_STEPS: usize = 20;

/// Watches a run for a task.
pub(crate) struct Watcher {
    task: Task,
    inbox: Inbox,
    step: u32,
    /// When the newest steps were done.
    done: VecDeque<Instant>,
}

impl Watcher {
    pub(crate) fn new(task: Task, inbox: Inbox) -> Self {
        Self { task, inbox, step: 0, done: VecDeque::new() }
    }

    fn report(&self, losses: Vec<f32>, evaluations: Vec<v1::Evaluation>) {
        let report =
            v1::TrainReport { step: self.step, steps_per_second: self.rate(), losses, evaluations, checkpoint: None };
        self.task.report(v1::renewal::Progress::Train(report));
    }

    /// Steps a second over the newest steps; 0 before the second.
    fn rate(&self) -> f32 {
        match (self.done.front(), self.done.back()) {
            (Some(first), Some(last)) if last > first => (self.done.len() - 1) as f32 / (*last - *first).as_secs_f32(),
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
        self.done.push_back(Instant::now());
        if self.done.len() > RATE_STEPS {
            self.done.pop_front();
        }
        self.report(vec![loss], Vec::new());
    }

    fn evaluated(&mut self, evaluation: Evaluation) {
        self.step = evaluation.step;
        self.report(Vec::new(), vec![v1::Evaluation { step: evaluation.step, loss: evaluation.loss }]);
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) {
        self.inbox.send_replace(Some(checkpoint));
    }
}
