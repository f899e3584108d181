//! Renews all leases of the node, with what their tasks have to tell. Never waits for free capacity.

use std::sync::Arc;

use likeness_proto::{ErrorCode, Refusal, Verdict, v1};
use tokio::{
    sync::{Mutex, Notify},
    time::Instant,
};
use tracing::{error, info, warn};

use crate::{
    client::{CallError, call},
    held::{Held, Leases},
    progress::Progress,
    register::Link,
    stop::Stop,
};

/// Renews the leases in `leases`.
#[derive(Debug)]
pub(crate) struct Renewals {
    link: Arc<Link>,
    pub(crate) leases: Leases,
    /// Wakes the loop before its time.
    pub(crate) wake: Arc<Notify>,
    /// Held while a renewal is under way, so that what a task has to tell is told in one place at a time.
    exchange: Mutex<()>,
}

type Taken = (Arc<Held>, Progress);

impl Renewals {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link, leases: Leases::default(), wake: Arc::default(), exchange: Mutex::default() }
    }

    /// Renews until it is aborted.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut waits = self.link.waits();
        let mut wait = self.link.timing().renew;
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep(wait) => {}
                () = self.wake.notified() => {}
            }
            wait = match self.renew().await {
                Ok(()) => {
                    waits.reset();
                    self.link.timing().renew
                }
                Err(error) => {
                    let wait = waits.next().min(self.link.timing().renew);
                    warn!(%error, ?wait, "leases not renewed, trying again");
                    self.link.heed(&error).await;
                    wait
                }
            };
        }
    }

    /// No longer renews a lease; what its task had left to tell is given back.
    pub(crate) async fn finish(&self, held: &Held) -> Progress {
        let _exchange = self.exchange.lock().await;
        self.leases.remove(held.lease);
        held.progress().take()
    }

    /// Renews all leases once.
    async fn renew(&self) -> Result<(), CallError> {
        let _exchange = self.exchange.lock().await;
        let taken: Vec<Taken> = self.leases.all().into_iter().filter(|held| !held.is_over()).map(take).collect();
        if taken.is_empty() {
            return Ok(());
        }

        let request =
            v1::RenewRequest { incarnation: self.link.incarnation(), renewals: taken.iter().map(renewal).collect() };
        let sent = Instant::now();
        let timing = self.link.timing();
        match call(timing.lease / 3, self.link.client().renew(request)).await {
            Ok(answer) => {
                self.settle(taken, answer.standings, sent + timing.lease);
                Ok(())
            }
            Err(error) => {
                put_back(taken, &error);
                Err(error)
            }
        }
    }

    /// Applies the verdicts, which are in the order of the request.
    fn settle(&self, taken: Vec<Taken>, standings: Vec<v1::Standing>, until: Instant) {
        let mut standings = standings.into_iter();
        for (held, progress) in taken {
            let task = held.lease.task.to_string();
            let standing = standings.next().filter(|standing| standing.task_id == task);
            match standing.map(|standing| Verdict::decode(standing.verdict)) {
                Some(Ok(Verdict::Continue)) => {
                    held.prolong(until);
                    progress.answered();
                }
                Some(Ok(Verdict::Lost)) => self.stop(&held, Stop::Lost),
                Some(Ok(Verdict::Cancelled)) => self.stop(&held, Stop::Cancelled),
                Some(Err(_)) | None => {
                    error!(%task, "renewal answered without a verdict");
                    held.progress().put_back(progress);
                }
            }
        }
    }

    fn stop(&self, held: &Held, why: Stop) {
        info!(task = %held.lease.task, fence = held.lease.fence.get(), ?why, "task told to stop");
        self.leases.remove(held.lease);
        held.stopper.stop(why);
    }
}

fn take(held: Arc<Held>) -> Taken {
    let progress = held.progress().take();
    (held, progress)
}

fn renewal((held, progress): &Taken) -> v1::Renewal {
    v1::Renewal { task_id: held.lease.task.to_string(), fence: held.lease.fence.get(), progress: progress.report() }
}

/// Keeps what was not heard for the next renewal. What is not accepted would be refused again, and every lease of the
/// node be lost with it: that is dropped.
fn put_back(taken: Vec<Taken>, error: &CallError) {
    if let CallError::Refused(Refusal { code: ErrorCode::InvalidArgument, .. }) = error {
        error!(%error, "progress not accepted, dropped");
        return;
    }
    for (held, progress) in taken {
        held.progress().put_back(progress);
    }
}
