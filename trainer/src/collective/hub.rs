//! Where the parts of a call meet, in the process of rank 0. Ranks of the same process come directly, others by a stream.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::bytes::Bytes;

use super::{CollectiveError, Operation};

/// The meeting place of one group. It has one call at a time, and ends with the first rank that is lost.
pub(crate) struct Hub {
    size: usize,
    state: Mutex<State>,
}

/// One rank's part in a call.
pub(crate) enum Part {
    Sum(Vec<f32>),
    /// What rank 0 tells; the others have nothing.
    Broadcast(Bytes),
    Gather(Bytes),
    Barrier,
}

/// What a call gives a rank.
#[derive(Clone)]
pub(crate) enum Outcome {
    Sum(Arc<[f32]>),
    Broadcast(Bytes),
    /// Empty but for rank 0.
    Gather(Vec<Bytes>),
    Barrier,
}

/// How a group ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost { ranks: Vec<usize>, why: String },
    Mismatch(String),
}

/// Called once, with what a call gave; never while the hub is locked, but from any rank's thread.
pub(crate) type Answer = Box<dyn FnOnce(Result<Outcome, Fate>) + Send>;

struct State {
    /// Of each rank that is in the call under way.
    parts: Vec<Option<(Part, Answer)>>,
    fate: Option<Fate>,
}

impl Part {
    pub(crate) fn operation(&self) -> Operation {
        match self {
            Self::Sum(values) => Operation::Sum { length: values.len() },
            Self::Broadcast(_) => Operation::Broadcast,
            Self::Gather(_) => Operation::Gather,
            Self::Barrier => Operation::Barrier,
        }
    }
}

impl Fate {
    /// As `rank` tells it, which called `operation`.
    pub(crate) fn told_by(self, rank: usize, operation: Operation) -> CollectiveError {
        match self {
            Self::Lost { ranks: lost, why } => CollectiveError::PeerLost { rank, operation, lost, why },
            Self::Mismatch(why) => CollectiveError::Mismatch { rank, operation, why },
        }
    }
}

impl Hub {
    pub(crate) fn new(size: usize) -> Self {
        let parts = (0..size).map(|_| None).collect();
        Self { size, state: Mutex::new(State { parts, fate: None }) }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Gives `rank`'s part; `answer` hears the outcome when all are there.
    pub(crate) fn enter(&self, rank: usize, part: Part, answer: Answer) {
        let mut state = self.state();
        if let Some(fate) = state.fate.clone() {
            drop(state);
            return answer(Err(fate));
        }
        let found = state.parts.iter().enumerate().find_map(|(other, entered)| Some((other, &entered.as_ref()?.0)));
        let clash = found.and_then(|(other, first)| clash((other, first.operation()), (rank, part.operation())));
        state.parts[rank] = Some((part, answer));
        if let Some(clash) = clash {
            return self.end(state, Fate::Mismatch(clash));
        }
        if state.parts.iter().all(Option::is_some) {
            let entered = state.parts.iter_mut().filter_map(Option::take).collect();
            drop(state);
            complete(entered);
        }
    }

    /// `rank` has waited long enough for the call that it is in: whoever is not there is lost.
    pub(crate) fn late(&self, rank: usize, limit: Duration) {
        let state = self.state();
        if state.parts[rank].is_none() {
            return; // its call was answered meanwhile
        }
        let missing = state.parts.iter().enumerate().filter(|(_, part)| part.is_none());
        let ranks = missing.map(|(rank, _)| rank).collect();
        self.end(state, Fate::Lost { ranks, why: format!("not there within {limit:?}") });
    }

    /// `rank` takes part no longer.
    pub(crate) fn leave(&self, rank: usize, why: &str) {
        let state = self.state();
        self.end(state, Fate::Lost { ranks: vec![rank], why: why.to_owned() });
    }

    /// Tells all that wait, and all that come. The first end stays.
    fn end(&self, mut state: MutexGuard<'_, State>, fate: Fate) {
        let fate = state.fate.get_or_insert(fate).clone();
        let waiting: Vec<_> = state.parts.iter_mut().filter_map(Option::take).collect();
        drop(state);
        waiting.into_iter().for_each(|(_, answer)| answer(Err(fate.clone())));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names both calls, unless they are the same.
fn clash((first, theirs): (usize, Operation), (rank, own): (usize, Operation)) -> Option<String> {
    let rule = "all ranks must make the same calls in the same order";
    (theirs != own).then(|| format!("rank {first} is in {theirs} and rank {rank} in {own}; {rule}"))
}

/// Answers everybody; `entered` is in the order of the ranks.
fn complete(entered: Vec<(Part, Answer)>) {
    let (parts, answers): (Vec<_>, Vec<_>) = entered.into_iter().unzip();
    let mut parts = parts.into_iter();
    let (first, others) = match parts.next() {
        Some(Part::Sum(values)) => {
            let same = Outcome::Sum(sum(values, parts).into());
            (same.clone(), same)
        }
        Some(Part::Broadcast(told)) => (Outcome::Broadcast(told.clone()), Outcome::Broadcast(told)),
        Some(Part::Gather(own)) => {
            let rest = parts.filter_map(|part| if let Part::Gather(bytes) = part { Some(bytes) } else { None });
            (Outcome::Gather(std::iter::once(own).chain(rest).collect()), Outcome::Gather(Vec::new()))
        }
        Some(Part::Barrier) | None => (Outcome::Barrier, Outcome::Barrier),
    };
    let outcomes = std::iter::once(first).chain(std::iter::repeat(others));
    answers.into_iter().zip(outcomes).for_each(|(answer, outcome)| answer(Ok(outcome)));
}

/// In the order of the ranks: the same bits whoever came last.
fn sum(mut values: Vec<f32>, parts: impl Iterator<Item = Part>) -> Vec<f32> {
    for part in parts {
        if let Part::Sum(more) = part {
            values.iter_mut().zip(more).for_each(|(sum, value)| *sum += value);
        }
    }
    values
}
