//! The calls that a client makes.

use std::sync::LazyLock;
use std::task::{Context, Poll};

use opentelemetry::metrics::Histogram;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};

use super::call::Call;
use crate::metrics::{CALLS, Stopwatch, seconds};

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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let (began, durations) = (Stopwatch::start(), &*DURATIONS);
        let mut call = Call { method, began, durations, refused: |_| {}, ended: false };
        let answer = self.0.call(request);
        Box::pin(async move {
            match answer.await {
                Ok(response) => Ok(call.answer(response)),
                Err(error) => {
                    call.end(Code::Unavailable);
                    Err(error)
                }
            }
        })
    }
}
