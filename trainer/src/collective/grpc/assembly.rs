//! Where ranks of other processes wait until all are there.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use likeness_proto::{ErrorCode, PROTOCOL_VERSION, Refusal, v1, v1::ranks_server::Ranks};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::{Terms, member::attend};
use crate::collective::{Local, hub::Hub};

/// A rank introduces itself within this time.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// Forms groups, one after the other: the first ranks are this process', the others join by streams. Cheap to clone.
#[derive(Clone)]
pub struct Assembly(Arc<Shared>);

pub(super) struct Shared {
    terms: Terms,
    /// Ranks of this process, from 0.
    own: usize,
    /// How long a call may take.
    limit: Duration,
    hall: Mutex<Hall>,
    came: Condvar,
}

#[derive(Default)]
struct Hall {
    /// Ranks that wait, each by a number of its own.
    waiting: BTreeMap<usize, (u64, oneshot::Sender<Arc<Hub>>)>,
    entered: u64,
    group: Weak<Hub>,
}

/// A rank's turn to wait; given up when it is dropped.
pub(super) struct Seat {
    pub(super) rank: usize,
    number: u64,
    pub(super) called: oneshot::Receiver<Arc<Hub>>,
    shared: Arc<Shared>,
}

impl Assembly {
    /// Groups under `terms` whose first `own` ranks are this process'. A call gives up after `limit`.
    #[must_use]
    pub fn new(terms: Terms, own: usize, limit: Duration) -> Self {
        Self(Arc::new(Shared { terms, own, limit, hall: Mutex::default(), came: Condvar::new() }))
    }

    /// Waits for all ranks, `patience` at most: then the group stands. These are this process' ranks in it.
    ///
    /// # Errors
    /// The ranks that are not there yet.
    pub fn form(&self, patience: Duration) -> Result<Vec<Local>, Vec<usize>> {
        let Shared { own, terms, limit, came, .. } = &*self.0;
        let others = terms.size - own;
        let incomplete = |hall: &mut Hall| hall.waiting.len() < others;
        let waited = came.wait_timeout_while(self.0.hall(), patience, incomplete);
        let (mut hall, _timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
        if incomplete(&mut hall) {
            return Err((*own..terms.size).filter(|rank| !hall.waiting.contains_key(rank)).collect());
        }
        let hub = Arc::new(Hub::new(terms.size));
        for (rank, (_, call)) in std::mem::take(&mut hall.waiting) {
            if call.send(Arc::clone(&hub)).is_err() {
                hub.leave(rank, "it left while the group was formed");
            }
        }
        hall.group = Arc::downgrade(&hub);
        info!(ranks = terms.size, "group stands");
        Ok((0..*own).map(|rank| Local::new(&hub, rank, *limit)).collect())
    }
}

impl Shared {
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Which rank comes.
    fn check(&self, introduced: &v1::Introduction) -> Result<usize, Refusal> {
        let v1::Introduction { protocol_version, software, base_model, size, rank } = introduced;
        let (ours, rank) = (&self.terms, *rank as usize);
        let differ = |code, what: &str, theirs: &dyn std::fmt::Display, ours: &dyn std::fmt::Display| {
            let rule = "all trainers of a group must agree";
            Err(Refusal::new(code, format!("rank {rank} has {what} {theirs}, the group's leader {ours}; {rule}")))
        };
        if *protocol_version != PROTOCOL_VERSION {
            return differ(ErrorCode::VersionMismatch, "protocol version", protocol_version, &PROTOCOL_VERSION);
        }
        if *software != ours.software {
            return differ(ErrorCode::VersionMismatch, "version", software, &ours.software);
        }
        if *base_model != ours.base_model {
            return differ(ErrorCode::ModelMismatch, "base model", base_model, &ours.base_model);
        }
        if *size as usize != ours.size {
            return differ(ErrorCode::InvalidArgument, "group size", size, &ours.size);
        }
        match (self.own..ours.size).contains(&rank) {
            true => Ok(rank),
            false => Err(Refusal::invalid(format!(
                "rank {rank} cannot join: ranks 0 to {} are the leader's own, {} to {} can join",
                self.own - 1,
                self.own,
                ours.size - 1
            ))),
        }
    }

    /// Takes a rank in. One that is there already was lost and has come back: it gives up its seat, and its group ends.
    fn admit(self: &Arc<Self>, rank: usize) -> Seat {
        let mut hall = self.hall();
        hall.entered += 1;
        let (number, (call, called)) = (hall.entered, oneshot::channel());
        hall.waiting.insert(rank, (number, call));
        let group = hall.group.upgrade();
        drop(hall);
        if let Some(group) = group {
            warn!(rank, "rank joins anew, its group ends");
            group.leave(rank, "it has joined anew");
        }
        self.came.notify_all();
        Seat { rank, number, called, shared: Arc::clone(self) }
    }

    fn hall(&self) -> MutexGuard<'_, Hall> {
        self.hall.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut hall = self.shared.hall();
        if hall.waiting.get(&self.rank).is_some_and(|(number, _)| *number == self.number) {
            hall.waiting.remove(&self.rank);
        }
    }
}

#[tonic::async_trait]
impl Ranks for Assembly {
    type JoinStream = ReceiverStream<Result<v1::JoinResponse, Status>>;

    async fn join(&self, request: Request<Streaming<v1::JoinRequest>>) -> Result<Response<Self::JoinStream>, Status> {
        let mut parts = request.into_inner();
        let first = tokio::time::timeout(INTRODUCTION, parts.message()).await;
        let first = first.map_err(|_| Refusal::invalid(format!("no introduction within {INTRODUCTION:?}")))??;
        let Some(v1::join_request::Said::Introduction(introduced)) = first.and_then(|first| first.said) else {
            return Err(Refusal::invalid("the first request of a rank must introduce it").into());
        };
        let rank = self.0.check(&introduced).inspect_err(|refusal| warn!(%refusal, "rank refused"))?;
        let seat = self.0.admit(rank);
        let (answers, outbox) = mpsc::channel(1);
        tokio::spawn(attend(seat, parts, answers, self.0.limit()));
        Ok(Response::new(ReceiverStream::new(outbox)))
    }
}
