//! Counts the calls in flight, over all connections.

use std::sync::Arc;
use std::time::Duration;

use likeness_proto::{ErrorCode, Refusal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;

/// After this time it is worth trying again.
const RETRY: Duration = Duration::from_secs(1);

/// Lets as many in as there is room for.
#[derive(Debug)]
pub(crate) struct Turnstile {
    calls: (Arc<Semaphore>, usize),
    streams: (Arc<Semaphore>, usize),
}

impl Turnstile {
    pub(crate) fn new(limits: &Limits) -> Self {
        let room = |count: usize| (Arc::new(Semaphore::new(count)), count);
        Self { calls: room(limits.calls), streams: room(limits.streams) }
    }

    /// Room for a call with one answer.
    pub(crate) fn call(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        enter(&self.calls, "calls")
    }

    /// Room for an upload, a download or a watch.
    pub(crate) fn stream(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        enter(&self.streams, "streams")
    }
}

fn enter((room, limit): &(Arc<Semaphore>, usize), what: &str) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(room).try_acquire_owned().map_err(|_full| {
        let message = format!("{limit} {what} are in flight, which is the limit of this coordinator; try again later");
        Refusal::new(ErrorCode::Overloaded, message).retry_after(RETRY)
    })
}
