//! The handle of a running task.

use std::sync::Arc;

use likeness_proto::{Grant, v1};
use tokio::{sync::Notify, time::Instant};

use crate::{Bucket, Stop, StopSignal, held::Held};

/// The handle of a running task: its bucket, its stop signal, and how to tell how far it is. Cheap to clone, usable from
/// blocking threads too.
#[derive(Clone, Debug)]
pub struct Task {
    bucket: Bucket,
    stop: StopSignal,
    held: Arc<Held>,
    renew: Arc<Notify>,
}

impl Task {
    pub(crate) fn new(bucket: Bucket, held: Arc<Held>, renew: Arc<Notify>) -> Self {
        Self { bucket, stop: held.stopper.signal(), held, renew }
    }

    /// A task without a node, for running a [`Work`](crate::Work) by itself, and the end that stands in for the
    /// coordinator. Its lease never lapses.
    pub fn alone(grant: &Grant, bucket: Bucket) -> (Self, TaskProbe) {
        let held = Arc::new(Held::new(grant.lease, Instant::now()));
        let renew = Arc::new(Notify::new());
        (Self::new(bucket, Arc::clone(&held), Arc::clone(&renew)), TaskProbe { held, renew })
    }

    /// The bucket, writable under this lease's prefix.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Whether to stop; look at it often.
    pub fn stop(&self) -> &StopSignal {
        &self.stop
    }

    /// Tells how far the task is; goes along with the next renewal. Losses and evaluations of several reports are
    /// joined, so each report holds only what is new since the last. Losses are those of the steps that end with `step`.
    pub fn report(&self, progress: v1::renewal::Progress) {
        self.held.progress().add(progress);
    }

    /// Has the coordinator queue a preview; goes along with the next renewal, in place of one that was not told yet. Nobody hears what
    /// becomes of it.
    pub fn preview(&self, snapshot: v1::Snapshot) {
        self.held.progress().preview(snapshot);
    }

    /// Has the coordinator record a checkpoint; returns when it has. Renews at once. Report the losses up to the
    /// checkpoint's step before.
    ///
    /// # Errors
    /// When the lease was lost or the job cancelled before the checkpoint was recorded, or the coordinator does not
    /// accept it: return [`WorkError::Stopped`](crate::WorkError::Stopped).
    pub async fn commit_checkpoint(&self, checkpoint: v1::Checkpoint) -> Result<(), Stop> {
        let recorded = self.held.progress().commit(checkpoint);
        self.renew.notify_one();
        tokio::select! {
            biased;
            recorded = recorded => recorded.map_err(|_refused| self.stop.requested().unwrap_or(Stop::Lost)),
            stop = self.stop.wait_final() => Err(stop),
        }
    }
}

/// Stands in for the coordinator of a task that runs [`alone`](Task::alone).
#[derive(Debug)]
pub struct TaskProbe {
    held: Arc<Held>,
    renew: Arc<Notify>,
}

impl TaskProbe {
    /// Tells the task to stop.
    pub fn stop(&self, why: Stop) {
        self.held.stopper.stop(why);
    }

    /// Takes what the task has reported since, and records its checkpoint if there is one, as a renewal does.
    pub fn renew(&self) -> Option<v1::renewal::Progress> {
        let taken = self.held.progress().take();
        let report = taken.report();
        taken.answered();
        report
    }

    /// Waits until the task wants a checkpoint recorded; then [`renew`](Self::renew).
    pub async fn wanted(&self) {
        self.renew.notified().await;
    }
}
