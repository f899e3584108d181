//! The calls that a client makes.

use std::sync::LazyLock;
use std::task::{Context, Poll};

use opentelemetry::metrics::Histogram;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::call::Call;
use crate::metrics::{CALLS, Stopwatch, seconds};
use crate::trace::Parent;

static DURATIONS: LazyLock<Histogram<f64>> =
    LazyLock::new(|| seconds("rpc.client.call.duration", "calls of a client, to the last of their answer", CALLS));

/// A way to a server whose calls are told of.
#[derive(Clone, Debug)]
pub struct Asked<S>(S);

impl<S> Asked<S> {
    /// Tells of the calls that go by `way`.
    pub fn by(way: S) -> Self {
        Self(way)
    }
}

impl<S> Service<Request<Body>> for Asked<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Self::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let (began, durations, span) = (Stopwatch::start(), &*DURATIONS, span(&method));
        if let Some(parent) = Parent::of(&span) {
            parent.name_in(request.headers_mut());
        }
        let fails = |code| code != Code::Ok;
        let mut call = Call { method, began, durations, refused: |_| {}, span: span.clone(), fails, ended: false };
        let answer = self.0.call(request);
        let answered = async move {
            match answer.await {
                Ok(response) => Ok(call.answer(response)),
                Err(error) => {
                    call.end(Code::Unavailable);
                    Err(error)
                }
            }
        };
        Box::pin(answered.instrument(span))
    }
}

/// A call's span, where it is part of something that is traced. Calls about the work of many, as renewals, are not.
fn span(method: &str) -> Span {
    crate::child!(
        "call",
        otel.name = method,
        otel.kind = "client",
        otel.status_code = Empty,
        "error.type" = Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = Empty,
    )
}
