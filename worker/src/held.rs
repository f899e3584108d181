//! The leases that this node holds.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use likeness_proto::LeaseId;
use tokio::{sync::watch, time::Instant};

use crate::{
    progress::Progress,
    stop::{Stop, Stopper},
};

/// One lease that this node holds.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) lease: LeaseId,
    pub(crate) stopper: Stopper,
    progress: Mutex<Progress>,
    until: watch::Sender<Instant>,
}

impl Held {
    pub(crate) fn new(lease: LeaseId, until: Instant) -> Self {
        let progress = Mutex::default();
        Self { lease, stopper: Stopper::new(), progress, until: watch::Sender::new(until) }
    }

    /// What is to be told with the next renewal.
    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        lock(&self.progress)
    }

    /// When the lease ends on this node's clock.
    pub(crate) fn until(&self) -> Instant {
        *self.until.borrow()
    }

    /// The lease was renewed.
    pub(crate) fn prolong(&self, until: Instant) {
        self.until.send_replace(until);
    }

    /// Waits until the lease has ended without a renewal.
    pub(crate) async fn lapsed(&self) {
        let mut changes = self.until.subscribe();
        loop {
            let until = *changes.borrow_and_update();
            tokio::select! {
                biased;
                _prolonged = changes.changed() => {}
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }

    /// Whether nothing that is done under this lease counts any more.
    pub(crate) fn is_over(&self) -> bool {
        self.stopper.requested().is_some_and(Stop::is_final)
    }
}

/// All leases that are to be renewed.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<BTreeMap<LeaseId, Arc<Held>>>);

impl Leases {
    /// Adds a lease. An older one of the same task is lost by that.
    pub(crate) fn add(&self, held: Arc<Held>) {
        let mut leases = lock(&self.0);
        for older in leases.values().filter(|older| older.lease.task == held.lease.task) {
            older.stopper.stop(Stop::Lost);
        }
        leases.insert(held.lease, held);
    }

    /// No longer renews a lease.
    pub(crate) fn remove(&self, lease: LeaseId) {
        lock(&self.0).remove(&lease);
    }

    /// Those that are held now.
    pub(crate) fn all(&self) -> Vec<Arc<Held>> {
        lock(&self.0).values().cloned().collect()
    }
}

impl Drop for Leases {
    /// Nobody renews any more: whoever still works under a lease hears that it is lost.
    fn drop(&mut self) {
        self.all().iter().for_each(|held| held.stopper.stop(Stop::Lost));
    }
}

/// What the mutexes here guard is never left half changed, so that a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
