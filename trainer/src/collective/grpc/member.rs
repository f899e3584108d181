//! A rank of another process, as the process of rank 0 sees it: what comes by its stream is its part.

use std::sync::Arc;
use std::time::Duration;

use likeness_proto::v1::{self, JoinRequest, JoinResponse, join_request::Said, join_response::Heard, rank_part::Call};
use prost::bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};
use tracing::debug;

use super::{assembly::Seat, to_bytes, to_numbers};
use crate::collective::hub::{Fate, Hub, Outcome, Part};

type Answers = mpsc::Sender<Result<JoinResponse, Status>>;

/// Waits with a rank for its group, then takes its part in every call until its stream or the group ends.
pub(super) async fn attend(mut seat: Seat, mut parts: Streaming<JoinRequest>, answers: Answers, limit: Duration) {
    let rank = seat.rank;
    let hub = tokio::select! {
        called = &mut seat.called => called,
        early = parts.message() => {
            debug!(rank, said = early.is_ok_and(|said| said.is_some()), "rank went before its group stood");
            return;
        }
    };
    let Ok(hub) = hub else { return }; // another took its seat
    drop(seat);
    let member = Member { hub, rank, limit };
    if answers.send(heard(Heard::Welcome(v1::Nothing {}))).await.is_err() {
        return;
    }
    while let Ok(Some(JoinRequest { said: Some(Said::Part(v1::RankPart { call: Some(call) })) })) =
        parts.message().await
    {
        let outcome = member.call(call).await;
        let over = outcome.is_err();
        let told = outcome.map_or_else(told_fate, |outcome| Heard::Outcome(told_outcome(outcome)));
        if answers.send(heard(told)).await.is_err() || over {
            return;
        }
    }
}

/// Its place in the group; the group ends when it is dropped.
struct Member {
    hub: Arc<Hub>,
    rank: usize,
    limit: Duration,
}

impl Member {
    async fn call(&self, call: Call) -> Result<Outcome, Fate> {
        let (answer, mut answered) = oneshot::channel();
        self.hub.enter(self.rank, part(call), Box::new(move |outcome| drop(answer.send(outcome))));
        let outcome = match tokio::time::timeout(self.limit, &mut answered).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                self.hub.late(self.rank, self.limit);
                answered.await // answered by now, or about to be
            }
        };
        let panicked = || Err(Fate::Lost { ranks: Vec::new(), why: "the rank that came last panicked".to_owned() });
        outcome.unwrap_or_else(|_| panicked())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.hub.leave(self.rank, "its connection has ended");
    }
}

fn part(call: Call) -> Part {
    match call {
        Call::Sum(bytes) => Part::Sum(to_numbers(&bytes).collect()),
        Call::Broadcast(v1::Nothing {}) => Part::Broadcast(Bytes::new()),
        Call::Gather(bytes) => Part::Gather(bytes),
        Call::Barrier(v1::Nothing {}) => Part::Barrier,
    }
}

fn told_outcome(outcome: Outcome) -> Bytes {
    match outcome {
        Outcome::Sum(sum) => to_bytes(&sum).into(),
        Outcome::Broadcast(told) => told,
        Outcome::Gather(_) | Outcome::Barrier => Bytes::new(),
    }
}

fn told_fate(fate: Fate) -> Heard {
    match fate {
        Fate::Lost { ranks, why } => {
            Heard::Lost(v1::RanksLost { ranks: ranks.into_iter().map(|rank| rank as u32).collect(), why })
        }
        Fate::Mismatch(why) => Heard::Mismatch(why),
    }
}

fn heard(heard: Heard) -> Result<JoinResponse, Status> {
    Ok(JoinResponse { heard: Some(heard) })
}
