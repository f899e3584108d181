//! Tells waiting calls that it is worth to look at the store again. A signal carries no state: the store is the truth.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use likeness_proto::{JobId, TenantId};
use tokio::sync::{broadcast, mpsc, watch};

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
    watched: Arc<Watched>,
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

/// The jobs that somebody watches. Only their watchers are woken, however many others there are.
#[derive(Debug, Default)]
struct Watched(Mutex<HashMap<JobId, (TenantId, watch::Sender<()>)>>);

impl Watched {
    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, (TenantId, watch::Sender<()>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signals {
    /// `others`: who else changes the store.
    pub(crate) fn new(others: Option<Others>) -> Self {
        Self { watched: Arc::default(), ready: broadcast::Sender::new(1), others }
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
            Signal::Job(job) => {
                if let Some((_tenant, watchers)) = self.watched.jobs().get(&job) {
                    watchers.send_replace(());
                }
            }
            // Fails when nobody is waiting.
            Signal::Ready => drop(self.ready.send(())),
        }
    }

    /// Something may have been missed: everything is worth a look.
    pub(crate) fn hear_all(&self) {
        self.watched.jobs().values().for_each(|(_tenant, watchers)| watchers.send_replace(()));
        self.hear(Signal::Ready);
    }

    /// How often to look at the store unasked; `None`: whatever changes is told.
    pub(crate) fn poll(&self) -> Option<Duration> {
        self.others.as_ref().map(|others| others.poll)
    }

    /// Subscribe first, then look at the store: so no change is missed.
    pub(crate) fn job(&self, tenant: &TenantId, job: JobId) -> JobChanges {
        let changes = match self.watched.jobs().entry(job) {
            Entry::Occupied(watched) => watched.get().1.subscribe(),
            Entry::Vacant(unwatched) => unwatched.insert((tenant.clone(), watch::Sender::new(()))).1.subscribe(),
        };
        JobChanges { job, changes, watched: Arc::clone(&self.watched) }
    }

    /// The jobs that somebody watches now.
    pub(crate) fn watched(&self) -> Vec<(TenantId, JobId)> {
        self.watched.jobs().iter().map(|(job, (tenant, _watchers))| (tenant.clone(), *job)).collect()
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

/// Changes of a job from now on.
#[derive(Debug)]
pub(crate) struct JobChanges {
    job: JobId,
    changes: watch::Receiver<()>,
    watched: Arc<Watched>,
}

impl JobChanges {
    /// Waits until the job may have changed; several changes may be told as one.
    pub(crate) async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            // The sender stays as long as there is a receiver.
            std::future::pending().await
        }
    }
}

impl Drop for JobChanges {
    fn drop(&mut self) {
        let mut jobs = self.watched.jobs();
        if let Entry::Occupied(watched) = jobs.entry(self.job)
            && watched.get().1.receiver_count() <= 1
        {
            watched.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_s_watchers_are_told_of_it_alone_and_leave_nothing_behind() {
        let (signals, tenant) = (Signals::new(None), "acme".parse().unwrap());
        let (one, other) = (JobId::new(), JobId::new());
        let mut watches = [signals.job(&tenant, one), signals.job(&tenant, one)];
        let mut elsewhere = signals.job(&tenant, other);
        signals.send(Signal::Job(one));
        for watch in &mut watches {
            watch.changed().await;
        }
        assert!(!elsewhere.changes.has_changed().unwrap());
        signals.hear_all();
        elsewhere.changed().await;
        drop(watches);
        assert_eq!(signals.watched(), [(tenant, other)]);
        drop(elsewhere);
        assert!(signals.watched().is_empty());
    }

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
