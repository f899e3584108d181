//! Ranks of one process, a thread each.

use std::sync::{
    Arc,
    mpsc::{RecvTimeoutError, channel},
};
use std::time::Duration;

use prost::bytes::Bytes;

use super::{
    Collective, CollectiveError,
    hub::{Fate, Hub, Outcome, Part},
};

/// A rank of the process of rank 0.
pub struct Local {
    hub: Arc<Hub>,
    rank: usize,
    limit: Duration,
}

/// A group of `size` ranks in this process, in their order. A call gives up after `limit`.
#[must_use]
pub fn local(size: usize, limit: Duration) -> Vec<Local> {
    let hub = Arc::new(Hub::new(size));
    (0..size).map(|rank| Local::new(&hub, rank, limit)).collect()
}

impl Local {
    pub(super) fn new(hub: &Arc<Hub>, rank: usize, limit: Duration) -> Self {
        Self { hub: Arc::clone(hub), rank, limit }
    }

    fn call(&self, part: Part) -> Result<Outcome, CollectiveError> {
        let operation = part.operation();
        let (answer, answered) = channel();
        self.hub.enter(self.rank, part, Box::new(move |outcome| drop(answer.send(outcome))));
        let outcome = match answered.recv_timeout(self.limit) {
            Err(RecvTimeoutError::Timeout) => {
                self.hub.late(self.rank, self.limit);
                answered.recv().ok() // answered by now, or about to be
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Ok(outcome) => Some(outcome),
        };
        let panicked = || Err(Fate::Lost { ranks: Vec::new(), why: "the rank that came last panicked".to_owned() });
        outcome.unwrap_or_else(panicked).map_err(|fate| fate.told_by(self.rank, operation))
    }
}

impl Collective for Local {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.hub.size()
    }

    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), CollectiveError> {
        if let Outcome::Sum(sum) = self.call(Part::Sum(values.to_vec()))? {
            values.copy_from_slice(&sum);
        }
        Ok(())
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<(), CollectiveError> {
        let own = if self.rank == 0 { Bytes::copy_from_slice(bytes) } else { Bytes::new() };
        if let Outcome::Broadcast(told) = self.call(Part::Broadcast(own))? {
            *bytes = told.into();
        }
        Ok(())
    }

    fn gather(&mut self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, CollectiveError> {
        match self.call(Part::Gather(bytes.into()))? {
            Outcome::Gather(parts) => Ok(parts.into_iter().map(Vec::from).collect()),
            Outcome::Sum(_) | Outcome::Broadcast(_) | Outcome::Barrier => Ok(Vec::new()),
        }
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.call(Part::Barrier).map(drop)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.hub.leave(self.rank, "it has left");
    }
}
