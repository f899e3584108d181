//! What all handlers share, and who stands before them.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use likeness_proto::{Refusal, Secret, TenantId};
use tokio::time::{Instant, sleep};
use tonic::Status;

use futures::future::BoxFuture;

use super::oops::Oops;
use super::session::{Session, Sessions};
use crate::access::{Access, Caller, Gate, lapse};
use crate::limits::{Limits, Turnstile};
use crate::service::Shared;
use crate::store::{SessionId, Store};

/// Methods whose permission lets somebody see a page: who may call one, may see what it answers.
pub(super) mod may {
    pub(in crate::page) const LIST_JOBS: &str = "/likeness.v1.Avatars/ListJobs";
    pub(in crate::page) const GET_JOB: &str = "/likeness.v1.Avatars/GetJob";
    pub(in crate::page) const WATCH_JOB: &str = "/likeness.v1.Avatars/WatchJob";
    pub(in crate::page) const LIST_SUBJECTS: &str = "/likeness.v1.Avatars/ListSubjects";
    pub(in crate::page) const GET_SUBJECT: &str = "/likeness.v1.Avatars/GetSubject";
    pub(in crate::page) const DOWNLOAD: &str = "/likeness.v1.Avatars/Download";
    pub(in crate::page) const LIST_TENANTS: &str = "/likeness.v1.Admin/ListTenants";
    /// The whole fleet.
    pub(in crate::page) const FLEET: &str = "/page/Fleet";
    /// What is done of a tenant's own.
    pub(in crate::page) const WORK: &str = "/page/Work";
}

/// Requests that are answered at a time, and streams that are open.
const ROOM: (usize, usize) = (256, 1024);

/// What all handlers share.
pub(super) struct Desk<S> {
    pub(super) gate: Arc<Gate<S>>,
    pub(super) sessions: Sessions,
    pub(super) turnstile: Turnstile,
}

/// Somebody who may see what they ask for.
pub(super) struct Visitor {
    pub(super) access: Access,
    session: Session,
}

impl<S: Store> Desk<S> {
    /// `secure`: browsers come over TLS alone.
    pub(super) fn new(gate: Arc<Gate<S>>, secure: bool) -> Arc<Self> {
        let sessions = Sessions::new(&gate.pepper, secure);
        let own = &gate.shared.limits;
        let limits = Limits { calls: own.calls.min(ROOM.0), streams: own.streams.min(ROOM.1), ..own.clone() };
        Arc::new(Self { gate, sessions, turnstile: Turnstile::new(&limits) })
    }

    pub(super) fn shared(&self) -> &Arc<Shared<S>> {
        &self.gate.shared
    }

    /// The session that a request shows, unless it is over or was signed out of.
    async fn session(&self, headers: &HeaderMap) -> Result<Option<Session>, Oops> {
        let Some(session) = self.sessions.of(headers, self.gate.clock.now()) else { return Ok(None) };
        let ended = self.shared().store.session_ended(&session.id).await?;
        Ok(Some(session).filter(|_| !ended))
    }

    /// Ends the session that a request shows, at every coordinator.
    pub(super) async fn sign_out(&self, headers: &HeaderMap) -> Result<(), Oops> {
        if let Some(session) = self.session(headers).await? {
            self.shared().store.end_session(&session.id, session.ends).await?;
        }
        Ok(())
    }

    /// Who asks, if their credential opens `method` at this moment.
    pub(super) async fn visitor(&self, headers: &HeaderMap, method: &str) -> Result<Visitor, Oops> {
        let session = self.session(headers).await?.ok_or(Oops::SignIn)?;
        let access = self.gate.admit(&Caller::with(&session.token, method)).await?;
        Ok(Visitor { access, session })
    }

    /// What a credential opens, of these the first.
    ///
    /// # Errors
    /// When it opens none.
    pub(super) async fn first(&self, token: &Secret, methods: &[&'static str]) -> Result<&'static str, Refusal> {
        let mut refused = Refusal::internal("there is nothing to open");
        for method in methods {
            match self.gate.admit(&Caller::with(token, method)).await {
                Ok(_access) => return Ok(method),
                Err(refusal) => refused = refusal,
            }
        }
        Err(refused)
    }

    /// Ends when the visitor may use `method` no longer, has signed out, or has used it for as long as `most`.
    pub(super) fn end(&self, visitor: &Visitor, method: &str, most: Option<Duration>) -> BoxFuture<'static, Status> {
        let left = visitor.session.ends.millis() - self.gate.clock.now().millis();
        let left = Duration::from_millis(left.try_into().unwrap_or(0));
        let (now, span) = (Instant::now(), most.map_or(left, |most| most.min(left)));
        let caller = Caller::with(&visitor.session.token, method);
        let recheck = self.shared().limits.recheck;
        let lapsed = lapse(Arc::clone(&self.gate), caller, recheck, Some((now, now + span)));
        let signed_out = signed_out(Arc::clone(self.shared()), visitor.session.id, recheck);
        Box::pin(async move {
            tokio::select! {
                biased;
                status = lapsed => status,
                status = signed_out => status,
            }
        })
    }
}

/// Waits until the session was signed out of, looking once in `period`.
async fn signed_out<S: Store>(shared: Arc<Shared<S>>, session: SessionId, period: Duration) -> Status {
    loop {
        sleep(period).await;
        // A store that cannot be asked now says nothing of the session.
        if matches!(shared.store.session_ended(&session).await, Ok(true)) {
            return Status::unauthenticated("the session was signed out of");
        }
    }
}

impl Visitor {
    pub(super) fn tenant(&self) -> Result<&TenantId, Oops> {
        Ok(self.access.tenant()?)
    }
}
