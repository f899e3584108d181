//! The calls that a service answers.

use std::convert::Infallible;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use opentelemetry::metrics::Histogram;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

use super::call::Call;
use crate::metrics::{CALLS, Stopwatch, seconds};

static DURATIONS: LazyLock<Histogram<f64>> =
    LazyLock::new(|| seconds("rpc.server.call.duration", "calls of a service, to the last of their answer", CALLS));

/// What a service's calls are told by.
#[derive(Clone, Copy, Debug)]
pub struct Ears {
    /// Whether a path is a method that there is. What strangers make up is told as `_OTHER`, since names are kept for ever.
    pub known: fn(&str) -> bool,
    /// Hears of every status that is no success.
    pub refused: fn(&Status),
}

/// A service whose calls are told of.
#[derive(Clone, Debug)]
pub struct Served<S> {
    service: S,
    ears: Ears,
}

impl<S> Served<S> {
    /// Tells of the calls of `service`.
    pub fn by(service: S, ears: Ears) -> Self {
        Self { service, ears }
    }
}

impl<S: NamedService> NamedService for Served<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Served<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let method = if (self.ears.known)(path) { path.trim_start_matches('/') } else { "_OTHER" }.to_owned();
        let (began, durations, refused) = (Stopwatch::start(), &*DURATIONS, self.ears.refused);
        let call = Call { method, began, durations, refused, ended: false };
        let answer = self.service.call(request);
        Box::pin(async move {
            let Ok(response) = answer.await;
            Ok(call.answer(response))
        })
    }
}
