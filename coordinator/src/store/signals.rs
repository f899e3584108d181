//! Tells waiting calls that it is worth to look at the store again. A signal carries no state: the store is the truth.

use std::time::Duration;

use likeness_proto::JobId;
use tokio::sync::{broadcast, mpsc};

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
    /// `None`: any job may have changed.
    jobs: broadcast::Sender<Option<JobId>>,
    ready: broadcast::Sender<()>,
    others: Option<Others>,
}

/// Other coordinators over the same store.
#[derive(Debug)]
pub(crate) struct Others {
    /// What they are told. Best effort: they look by themselves from time to time, too.
    pub(crate) outbox: mpsc::Sender<Signal>,
    /// How often to look at the store unasked.
    pub(crate) poll: Duration,
}

/// Changes that a watcher may miss before it has to look at its job unasked.
const BACKLOG: usize = 256;

impl Signals {
    /// `others`: who else changes the store.
    pub(crate) fn new(others: Option<Others>) -> Self {
        Self { jobs: broadcast::Sender::new(BACKLOG), ready: broadcast::Sender::new(1), others }
    }

    /// Tells everybody of a change made here.
    pub(crate) fn send(&self, signal: Signal) {
        if let Some(others) = &self.others {
            // Full: they look by themselves.
            let _told = others.outbox.try_send(signal);
        }
        self.hear(signal);
    }

    /// Passes on what was heard of a change made elsewhere.
    pub(crate) fn hear(&self, signal: Signal) {
        match signal {
            Signal::Job(job) => self.tell(Some(job)),
            // Fails when nobody is waiting.
            Signal::Ready => drop(self.ready.send(())),
        }
    }

    /// Something may have been missed: everything is worth a look.
    pub(crate) fn hear_all(&self) {
        self.tell(None);
        self.hear(Signal::Ready);
    }

    fn tell(&self, job: Option<JobId>) {
        // Fails when there is no receiver: then nobody is waiting.
        let _watchers = self.jobs.send(job);
    }

    /// How often to look at the store unasked; `None`: whatever changes is told.
    pub(crate) fn poll(&self) -> Option<Duration> {
        self.others.as_ref().map(|others| others.poll)
    }

    /// Subscribe first, then look at the store: so no change is missed.
    pub(crate) fn jobs(&self) -> JobChanges {
        JobChanges { changes: self.jobs.subscribe(), poll: self.poll() }
    }

    /// Subscribe first, then claim. Changes when tasks become ready.
    pub(crate) fn ready(&self) -> Readiness {
        Readiness(self.ready.subscribe())
    }
}

/// Tasks that become ready from now on.
#[derive(Debug)]
pub(crate) struct Readiness(broadcast::Receiver<()>);

impl Readiness {
    /// What was told so far is no news any more.
    pub(crate) fn forget(&mut self) {
        self.0 = self.0.resubscribe();
    }

    /// Waits until tasks have become ready. Of several that wait, those that came first are woken first.
    pub(crate) async fn changed(&mut self) {
        use broadcast::error::RecvError;
        match self.0.recv().await {
            Ok(()) | Err(RecvError::Lagged(_)) => {}
            // The sender lives as long as the store, which the caller holds.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }

    #[cfg(test)]
    pub(crate) fn has_changed(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Changes of jobs from now on.
#[derive(Debug)]
pub(crate) struct JobChanges {
    changes: broadcast::Receiver<Option<JobId>>,
    poll: Option<Duration>,
}

impl JobChanges {
    /// Waits until `job` may have changed; several changes may be told as one.
    pub(crate) async fn changed(&mut self, job: JobId) {
        match self.poll {
            // Late is as good as told.
            Some(poll) => drop(tokio::time::timeout(poll, self.told(job)).await),
            None => self.told(job).await,
        }
    }

    async fn told(&mut self, job: JobId) {
        use broadcast::error::RecvError;
        loop {
            match self.changes.recv().await {
                Ok(changed) if changed.is_none_or(|changed| changed == job) => return,
                Ok(_other) => {}
                Err(RecvError::Lagged(_)) => return,
                // The sender lives as long as the store, which the caller holds.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_longest_for_tasks_is_woken_first() {
        let signals = Signals::new(None);
        let (told, mut heard) = mpsc::unbounded_channel();
        for number in 0..8 {
            let (mut ready, told) = (signals.ready(), told.clone());
            tokio::spawn(async move {
                ready.changed().await;
                told.send(number).unwrap();
            });
            tokio::task::yield_now().await; // it waits
        }
        signals.send(Signal::Ready);
        for number in 0..8 {
            assert_eq!(heard.recv().await, Some(number));
        }
    }
}
