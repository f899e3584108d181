//! Calls to the coordinator, and what their answers mean.

use std::{future::Future, time::Duration};

use likeness_proto::{Bearer, ErrorCode, Refusal, Secret, v1::workers_client::WorkersClient};
use likeness_telemetry::rpc::Asked;
use tonic::{
    Code, Response, Status,
    body::Body,
    codegen::{Service, StdError, http},
    service::interceptor::InterceptedService,
    transport::Endpoint,
};
use tower::{ServiceExt, util::BoxCloneSyncService};

/// The `Workers` service, with the token on every call, if there is one.
pub(crate) type Client = WorkersClient<InterceptedService<Calls, Bearer>>;

type Calls = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A peer that is gone without a word is noticed after interval and limit.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_LIMIT: Duration = Duration::from_secs(5);

/// The way to the coordinator. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Way(Calls);

impl Way {
    /// Over a connection that is made with the first call, and again whenever it is gone. To be called within a runtime.
    pub fn to(endpoint: Endpoint) -> Self {
        let endpoint = endpoint
            .connect_timeout(CONNECT_LIMIT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_LIMIT)
            .keep_alive_while_idle(true);
        Self::by(endpoint.connect_lazy())
    }

    /// By whatever takes calls.
    pub fn by<S>(service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + Sync + 'static,
        S::Error: Into<StdError>,
        S::Future: Send + 'static,
    {
        let told = Asked::by(service.map_err(|error| Status::from_error(error.into())));
        Self(BoxCloneSyncService::new(told))
    }

    /// A client that presents `token`, if there is one.
    pub(crate) fn client(self, token: Option<&Secret>) -> Client {
        WorkersClient::with_interceptor(self.0, token.map_or_else(Bearer::none, Bearer::new))
    }
}

/// Why a call gave nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum CallError {
    /// The coordinator could not be reached, or could not answer now. The call may or may not have had its effect.
    #[error("the coordinator does not answer: {0}")]
    Unanswered(String),
    /// The coordinator has answered that it will not.
    #[error("the coordinator refuses: {0}")]
    Refused(#[from] Refusal),
}

/// Makes a call that may take as long as `limit`.
pub(crate) async fn call<T>(
    limit: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(meaning(&status)),
        Err(_elapsed) => Err(CallError::Unanswered(format!("no answer within {limit:?}"))),
    }
}

/// What an error status means. Only the coordinator itself writes a detail; all others come from the way to it.
fn meaning(status: &Status) -> CallError {
    let refusal = Refusal::read(status);
    let from_coordinator = Refusal::try_from(status).is_ok();
    let refused = if from_coordinator { is_refusal(refusal.code) } else { is_refused_by_server(status.code()) };
    if refused { CallError::Refused(refusal) } else { CallError::Unanswered(refusal.message) }
}

/// Whether the same call would be refused again; the other errors pass.
fn is_refusal(code: ErrorCode) -> bool {
    !matches!(
        code,
        ErrorCode::Internal
            | ErrorCode::Unavailable
            | ErrorCode::StorageUnavailable
            | ErrorCode::StorageFull
            | ErrorCode::Overloaded
    )
}

/// Whether a server or proxy that is no coordinator of ours turned the call away for good.
fn is_refused_by_server(code: Code) -> bool {
    matches!(code, Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented | Code::InvalidArgument)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_tried_again_and_what_does_not_is_not() {
        let passes = [
            Status::unavailable("connection refused"),
            Status::unknown("transport error"),
            Status::internal("h2 protocol error"),
            Refusal::new(ErrorCode::StorageFull, "the disk is full").into(),
            Refusal::internal("bug").into(),
        ];
        for status in passes {
            assert!(matches!(meaning(&status), CallError::Unanswered(_)), "{status}");
        }
        let stays = [
            Status::unauthenticated("who are you"),
            Status::unimplemented("no such service"),
            Refusal::new(ErrorCode::StaleFence, "fence 1 is stale").into(),
        ];
        for status in stays {
            assert!(matches!(meaning(&status), CallError::Refused(_)), "{status}");
        }
    }
}
