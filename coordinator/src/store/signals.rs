//! Tells waiting calls that it is worth to look at the store again. A signal carries no state: the store is the truth.

use likeness_proto::JobId;
use tokio::sync::{broadcast, watch};

/// What to look at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Signal {
    /// A job changed.
    Job(JobId),
    /// Tasks are ready.
    Ready,
}

/// Sent after the transaction that they tell of.
#[derive(Debug)]
pub(crate) struct Signals {
    jobs: broadcast::Sender<JobId>,
    ready: watch::Sender<u64>,
}

/// Changes that a watcher may miss before it has to look at its job unasked.
const BACKLOG: usize = 256;

impl Default for Signals {
    fn default() -> Self {
        Self { jobs: broadcast::Sender::new(BACKLOG), ready: watch::Sender::new(0) }
    }
}

impl Signals {
    pub(crate) fn send(&self, signal: Signal) {
        match signal {
            Signal::Job(job) => {
                // Fails when there is no receiver: then nobody is waiting.
                let _watchers = self.jobs.send(job);
            }
            Signal::Ready => self.ready.send_modify(|count| *count += 1),
        }
    }

    /// Subscribe first, then look at the store: so no change is missed.
    pub(crate) fn jobs(&self) -> JobChanges {
        JobChanges(self.jobs.subscribe())
    }

    /// Subscribe first, then claim. Changes when tasks become ready.
    pub(crate) fn ready(&self) -> watch::Receiver<u64> {
        self.ready.subscribe()
    }
}

/// Changes of jobs from now on.
#[derive(Debug)]
pub(crate) struct JobChanges(broadcast::Receiver<JobId>);

impl JobChanges {
    /// Waits until `job` may have changed; several changes may be told as one.
    pub(crate) async fn changed(&mut self, job: JobId) {
        use broadcast::error::RecvError;
        loop {
            match self.0.recv().await {
                Ok(changed) if changed == job => return,
                Ok(_other) => {}
                Err(RecvError::Lagged(_)) => return,
                // The sender lives as long as the store, which the caller holds.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}
