//! The node: registers, leases for free slots, and drains when it is asked to stop.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use likeness_proto::{BaseModel, Grant, Incarnation, LeaseId, PROTOCOL_VERSION, Refusal, Secret, v1, wire_kinds};
use object_store::ObjectStore;
use tokio::{sync::SetOnce, task::JoinSet, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{Instrument, error, info, info_span, warn};

use crate::{
    Backoff, Bucket, Task, Way, Work,
    backoff::Waits,
    client::{CallError, call},
    held::Held,
    metrics,
    register::{CALL_LIMIT, Link},
    renewals::Renewals,
    reports::{Report, tell},
    spans,
    stop::Stop,
    supervise::attend,
};

/// The coordinator answers a lease request empty after this long.
const LONG_POLL: Duration = Duration::from_secs(10);
/// Giving back what a drain could not finish takes as long as this at most.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// How a node works.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// How to reach the coordinator.
    pub coordinator: Way,
    /// What is presented there; `None`: the connection has a certificate that says who this is.
    pub token: Option<Secret>,
    /// Name of the node; stable over restarts.
    pub name: String,
    /// This process; another one after every restart.
    pub incarnation: Incarnation,
    /// Base models that its work holds.
    pub models: Vec<BaseModel>,
    /// Tasks at once.
    pub slots: NonZeroUsize,
    /// The root of the bucket.
    pub bucket: Arc<dyn ObjectStore>,
    /// How long running tasks may take to stop when the node shuts down.
    pub drain_grace: Duration,
    /// Waits between attempts to reach the coordinator.
    pub backoff: Backoff,
    /// Set when the coordinator has taken the node in.
    pub registered: Arc<SetOnce<()>>,
}

/// Why a node ended before it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Another protocol version, or not this token: trying again would not help.
    #[error("the coordinator does not accept this worker: {0}")]
    Refused(#[from] Refusal),
}

/// Works for the coordinator until `shutdown`, then drains: leases nothing more, tells all tasks to stop, waits
/// for them for up to the drain grace, gives back what is left, and returns.
///
/// A coordinator that does not answer is waited for, whether at the start or later; tasks go on meanwhile until their
/// leases lapse.
///
/// # Errors
/// When the coordinator refuses the registration.
pub fn run(
    options: NodeOptions,
    work: Arc<dyn Work>,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), NodeError>> {
    Box::pin(live(options, work, shutdown))
}

async fn live(options: NodeOptions, work: Arc<dyn Work>, shutdown: CancellationToken) -> Result<(), NodeError> {
    let mut node = Node::new(options, work);
    let Some(registered) = shutdown.run_until_cancelled(node.link.register_patiently()).await else { return Ok(()) };
    registered?;
    let _ = node.options.registered.set(()); // set already if another node of this process shares it
    metrics::drained(node.work.kinds().first(), false);
    let renewing = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&node.renewals).run()));

    let ended = shutdown.run_until_cancelled(node.lease_forever()).await;

    node.drain().await;
    metrics::drained(node.work.kinds().first(), true);
    drop(renewing);
    match ended {
        Some(Err(refusal)) => Err(refusal.into()),
        None => Ok(()),
    }
}

struct Node {
    options: NodeOptions,
    work: Arc<dyn Work>,
    link: Arc<Link>,
    renewals: Arc<Renewals>,
    running: JoinSet<()>,
}

/// `lease_forever` has no other end than a refusal.
type Never = std::convert::Infallible;

impl Node {
    fn new(options: NodeOptions, work: Arc<dyn Work>) -> Self {
        let incarnation = options.incarnation;
        let client = options.coordinator.clone().client(options.token.as_ref());
        let (kinds, previews) = wire_kinds(work.kinds());
        let request = v1::RegisterRequest {
            protocol_version: PROTOCOL_VERSION,
            worker: options.name.clone(),
            incarnation: incarnation.to_string(),
            kinds,
            previews,
            models: options.models.iter().cloned().map(Into::into).collect(),
            software: concat!("likeness ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let link = Arc::new(Link::new(client, incarnation, request, options.backoff));
        let renewals = Arc::new(Renewals::new(Arc::clone(&link)));
        Self { options, work, link, renewals, running: JoinSet::new() }
    }

    /// Keeps the slots filled. Cancelled between two grants, or in a call whose grants then lapse.
    async fn lease_forever(&mut self) -> Result<Never, Refusal> {
        let mut waits = self.link.waits();
        loop {
            let free = self.free_slots().await;
            match self.lease(free).await {
                Ok(grants) => {
                    waits.reset();
                    self.begin(grants, free);
                }
                Err(error) => self.recover(error, &mut waits).await?,
            }
        }
    }

    /// Waits for a free slot; how many there are.
    async fn free_slots(&mut self) -> usize {
        while let Some(ended) = self.running.try_join_next() {
            note(ended);
        }
        while self.running.len() >= self.options.slots.get() {
            self.running.join_next().await.into_iter().for_each(note);
        }
        self.options.slots.get() - self.running.len()
    }

    /// Waits for at most `free` tasks.
    async fn lease(&self, free: usize) -> Result<Vec<v1::Grant>, CallError> {
        let (kinds, previews) = wire_kinds(self.work.kinds());
        let request = v1::LeaseRequest {
            incarnation: self.link.incarnation(),
            kinds,
            previews,
            capacity: u32::try_from(free).unwrap_or(u32::MAX),
            wait_ms: LONG_POLL.as_millis() as u32,
        };
        let asked = Instant::now();
        let grants = call(LONG_POLL + CALL_LIMIT, self.link.client().lease(request)).await?.grants;
        if grants.is_empty() && asked.elapsed() < LONG_POLL / 2 {
            return Err(CallError::Unanswered("it has no tasks and does not wait for them".to_owned()));
        }
        Ok(grants)
    }

    /// Waits, and registers again where the coordinator no longer knows this incarnation.
    async fn recover(&self, error: CallError, waits: &mut Waits) -> Result<(), Refusal> {
        let wait = waits.next();
        warn!(%error, ?wait, "nothing leased, trying again");
        tokio::time::sleep(wait).await;
        match error {
            CallError::Unanswered(_) => Ok(()),
            CallError::Refused(_) => self.link.register_patiently().await,
        }
    }

    /// Begins what was granted; gives back what is more than was asked for.
    fn begin(&mut self, grants: Vec<v1::Grant>, free: usize) {
        for (index, wire) in grants.into_iter().enumerate() {
            let until = Instant::now() + Duration::from_millis(wire.lease_ms.into());
            let lease = match LeaseId::decode(&wire.task_id, wire.fence) {
                Ok(lease) => lease,
                Err(error) => {
                    error!(%error, "grant without a lease, dropped");
                    continue;
                }
            };
            match Grant::try_from(wire) {
                Ok(grant) if index < free => self.attend(grant, until),
                Ok(_surplus) => {
                    warn!(task = %lease.task, free, "more granted than asked for, given back");
                    self.tell(lease, Report::Release, until);
                }
                Err(error) => {
                    error!(task = %lease.task, %error, "grant not understood");
                    self.tell(lease, Report::Fail { error, retry: false }, until);
                }
            }
        }
    }

    fn tell(&mut self, lease: LeaseId, report: Report, until: Instant) {
        let link = Arc::clone(&self.link);
        self.running.spawn(async move { tell(&link, lease, report, until).await });
    }

    fn attend(&mut self, grant: Grant, until: Instant) {
        let LeaseId { task, fence } = grant.lease;
        let span = info_span!("task", %task, fence = fence.get(), job = %grant.job, subject = %grant.subject);
        let traced = span.in_scope(|| spans::of(&grant));
        let held = Arc::new(Held::new(grant.lease, until));
        self.renewals.leases.add(Arc::clone(&held));
        let bucket = Bucket::new(Arc::clone(&self.options.bucket), grant.output_prefix.clone());
        let task = Task::new(bucket, Arc::clone(&held), Arc::clone(&self.renewals.wake));
        let (work, link, renewals) = (Arc::clone(&self.work), Arc::clone(&self.link), Arc::clone(&self.renewals));
        self.running.spawn(attend(work, grant, task, held, link, renewals).instrument(traced).instrument(span));
    }

    /// Tells all tasks to stop, waits for them, and gives back those that do not.
    async fn drain(&mut self) {
        let grace = self.options.drain_grace;
        let leases = &self.renewals.leases;
        leases.all().iter().for_each(|held| held.stopper.stop(Stop::Draining));
        let all_ended = async {
            while let Some(ended) = self.running.join_next().await {
                note(ended);
            }
        };
        match tokio::time::timeout(grace, all_ended).await {
            Ok(()) => info!("all leases released"),
            Err(_elapsed) => warn!(?grace, "drain timed out, unfinished tasks are given back"),
        }
        let left = leases.all();
        let limit = Instant::now() + RELEASE_LIMIT;
        futures::future::join_all(left.iter().map(|held| self.give_back(held, limit))).await;
    }

    /// Gives back a task that still runs; it may write nothing more.
    async fn give_back(&self, held: &Held, limit: Instant) {
        let over = held.is_over();
        held.stopper.stop(Stop::Lost);
        if !over {
            tell(&self.link, held.lease, Report::Release, held.until().min(limit)).await;
        }
    }
}

/// Attempts report their own ends; that one panics outside of its work is a bug, and its lease lapses.
fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(%error, "attempt ended without a report");
    }
}
