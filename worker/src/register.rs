//! The node's link to its coordinator: who it is there, and how it introduces itself.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use likeness_proto::{ErrorCode, Incarnation, Refusal, v1};
use tracing::{info, warn};

use crate::{
    Backoff,
    backoff::Waits,
    client::{CallError, Client, call},
};

/// A call that does not wait for anything takes as long as this at most.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(10);

/// The link of one incarnation to its coordinator.
#[derive(Debug)]
pub(crate) struct Link {
    client: Client,
    incarnation: Incarnation,
    request: v1::RegisterRequest,
    backoff: Backoff,
    timing: Mutex<Timing>,
}

/// How long leases live, as the coordinator says at registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    /// A lease lives this long after each renewal.
    pub(crate) lease: Duration,
    /// Renew about this often.
    pub(crate) renew: Duration,
}

impl Timing {
    /// Before the first registration no lease is held.
    const NONE: Self = Self { lease: Duration::ZERO, renew: Duration::ZERO };

    fn decode(wire: v1::RegisterResponse) -> Result<Self, Refusal> {
        let v1::RegisterResponse { lease_ms, renew_ms } = wire;
        if 0 < renew_ms && renew_ms < lease_ms {
            let (lease, renew) = (Duration::from_millis(lease_ms.into()), Duration::from_millis(renew_ms.into()));
            return Ok(Self { lease, renew });
        }
        let message =
            format!("the coordinator asks to renew leases of {lease_ms} ms every {renew_ms} ms; it must be less");
        Err(Refusal::new(ErrorCode::VersionMismatch, message))
    }
}

impl Link {
    pub(crate) fn new(
        client: Client,
        incarnation: Incarnation,
        request: v1::RegisterRequest,
        backoff: Backoff,
    ) -> Self {
        Self { client, incarnation, request, backoff, timing: Mutex::new(Timing::NONE) }
    }

    /// A handle for one call.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// The incarnation as the wire has it.
    pub(crate) fn incarnation(&self) -> String {
        self.incarnation.to_string()
    }

    /// Waits between attempts.
    pub(crate) fn waits(&self) -> Waits {
        self.backoff.waits(self.incarnation)
    }

    /// What the coordinator last said about leases.
    pub(crate) fn timing(&self) -> Timing {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Introduces this incarnation; again does no harm.
    pub(crate) async fn register(&self) -> Result<(), CallError> {
        let answer = call(CALL_LIMIT, self.client().register(self.request.clone())).await?;
        let timing = Timing::decode(answer)?;
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner) = timing;
        info!(worker = %self.request.worker, incarnation = %self.incarnation, lease = ?timing.lease, "registered");
        Ok(())
    }

    /// Introduces this incarnation, however long the coordinator does not answer.
    ///
    /// # Errors
    /// When the coordinator refuses: another version, or not this token.
    pub(crate) async fn register_patiently(&self) -> Result<(), Refusal> {
        let mut waits = self.waits();
        loop {
            match self.register().await {
                Ok(()) => return Ok(()),
                Err(CallError::Refused(refusal)) => return Err(refusal),
                Err(CallError::Unanswered(error)) => {
                    let wait = waits.next();
                    warn!(%error, ?wait, "registration not answered, trying again");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Registers again if this is what an error asks for.
    pub(crate) async fn heed(&self, error: &CallError) {
        let CallError::Refused(Refusal { code: ErrorCode::UnknownWorker, .. }) = error else { return };
        if let Err(error) = self.register().await {
            warn!(%error, "not registered again yet");
        }
    }
}
