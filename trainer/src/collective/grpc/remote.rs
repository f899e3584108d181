//! A rank of another process than rank 0's.

use std::time::Duration;

use likeness_proto::v1::{
    self, JoinRequest, JoinResponse, join_request::Said, join_response::Heard, rank_part::Call,
    ranks_client::RanksClient,
};
use likeness_proto::{Bearer, ErrorCode, Refusal, Secret};
use prost::bytes::Bytes;
use tokio::{runtime::Handle, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Endpoint};

use super::{KEEP_ALIVE, MAX_MESSAGE, Terms, WINDOW, to_bytes, to_numbers};
use crate::collective::{Collective, CollectiveError, Operation, hub::Fate};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A rank that joined the group of a leader elsewhere. Its calls block: make them from a thread that no runtime needs.
pub struct Remote {
    runtime: Handle,
    says: mpsc::Sender<JoinRequest>,
    hears: Streaming<JoinResponse>,
    rank: usize,
    size: usize,
    limit: Duration,
}

/// Why a rank is in no group.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum JoinError {
    /// Trying again would not help.
    #[error("the group's leader refuses: {0}")]
    Refused(#[from] Refusal),
    /// The leader cannot be reached, or its group ended before it stood.
    #[error("the group's leader does not answer: {0}")]
    Unanswered(String),
}

impl Remote {
    /// Joins as rank `rank` and returns when the group stands, however long that takes. Presents `token`; none: the certificate of
    /// the connection speaks for it. A call gives up a quarter after `limit`: the leader, which knows who is missing, does at `limit`.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub async fn join(
        leader: Endpoint,
        token: Option<&Secret>,
        terms: &Terms,
        rank: usize,
        limit: Duration,
    ) -> Result<Self, JoinError> {
        let leader = leader
            .connect_timeout(CONNECT_LIMIT)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let channel = leader.connect().await.map_err(|error| JoinError::Unanswered(chain(&error)))?;
        let mut client = RanksClient::with_interceptor(channel, token.map_or_else(Bearer::none, Bearer::new))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);

        let (says, requests) = mpsc::channel(1);
        let introduction = JoinRequest { said: Some(Said::Introduction(terms.introduce(rank))) };
        let _ = says.send(introduction).await; // its receiver is below
        let answer = client.join(ReceiverStream::new(requests)).await;
        let mut hears = answer.map_err(|status| meaning(&status))?.into_inner();
        match hears.message().await.map_err(|status| meaning(&status))?.and_then(|first| first.heard) {
            Some(Heard::Welcome(v1::Nothing {})) => {}
            other => return Err(JoinError::Unanswered(format!("the group ended before it stood ({other:?})"))),
        }
        let size = terms.size;
        Ok(Self { runtime: Handle::current(), says, hears, rank, size, limit: limit + limit / 4 })
    }

    fn call(&mut self, operation: Operation, call: Call) -> Result<Bytes, CollectiveError> {
        let part = JoinRequest { said: Some(Said::Part(v1::RankPart { call: Some(call) })) };
        let (says, hears, limit) = (&self.says, &mut self.hears, self.limit);
        let exchange = async {
            let _ = says.send(part).await; // a stream that has ended says why below
            hears.message().await
        };
        let runtime = self.runtime.clone();
        let answer = runtime.block_on(async { tokio::time::timeout(limit, exchange).await });
        let leader_lost = |why: String| Fate::Lost { ranks: vec![0], why };
        let fate = match answer {
            Ok(Ok(Some(JoinResponse { heard: Some(Heard::Outcome(bytes)) }))) => return Ok(bytes),
            Ok(Ok(Some(JoinResponse { heard: Some(Heard::Lost(lost)) }))) => {
                Fate::Lost { ranks: lost.ranks.into_iter().map(|rank| rank as usize).collect(), why: lost.why }
            }
            Ok(Ok(Some(JoinResponse { heard: Some(Heard::Mismatch(why)) }))) => Fate::Mismatch(why),
            Ok(Ok(_)) => leader_lost("its stream has ended".to_owned()),
            Ok(Err(status)) => leader_lost(format!("its stream has ended: {}", status.message())),
            Err(_elapsed) => leader_lost(format!("no answer within {limit:?}")),
        };
        Err(fate.told_by(self.rank, operation))
    }
}

impl Collective for Remote {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), CollectiveError> {
        let sum = self.call(Operation::Sum { length: values.len() }, Call::Sum(to_bytes(values).into()))?;
        values.iter_mut().zip(to_numbers(&sum)).for_each(|(value, sum)| *value = sum);
        Ok(())
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<(), CollectiveError> {
        *bytes = self.call(Operation::Broadcast, Call::Broadcast(v1::Nothing {}))?.into();
        Ok(())
    }

    fn gather(&mut self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, CollectiveError> {
        self.call(Operation::Gather, Call::Gather(bytes.into())).map(|_nothing| Vec::new())
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.call(Operation::Barrier, Call::Barrier(v1::Nothing {})).map(drop)
    }
}

/// What a status says. Only the leader writes a detail; all others come from the way to it.
fn meaning(status: &Status) -> JoinError {
    match Refusal::try_from(status) {
        Ok(refusal) if refusal.code != ErrorCode::Unavailable => JoinError::Refused(refusal),
        Err(_) if matches!(status.code(), Code::Unimplemented | Code::Unauthenticated) => {
            JoinError::Refused(Refusal::read(status))
        }
        Ok(_) | Err(_) => JoinError::Unanswered(status.message().to_owned()),
    }
}

/// An error with what caused it, which transports tell one by one.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}
