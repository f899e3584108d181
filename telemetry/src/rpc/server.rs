//! The calls that a service answers.

use std::convert::Infallible;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use opentelemetry::metrics::Histogram;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;
use tonic::{Code, Status};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::call::Call;
use crate::metrics::{CALLS, Stopwatch, seconds};
use crate::trace::Parent;

static DURATIONS: LazyLock<Histogram<f64>> =
    LazyLock::new(|| seconds("rpc.server.call.duration", "calls of a service, to the last of their answer", CALLS));

/// What a service's calls are told by.
#[derive(Clone, Copy, Debug)]
pub struct Ears {
    /// Whether a path is a method that there is. What strangers make up is told as `_OTHER`, since names are kept for ever.
    pub known: fn(&str) -> bool,
    /// Whether a call of this path begins a trace where its caller has none.
    pub begins: fn(&str) -> bool,
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

    /// The request gets a [`Parent`] for what it leads to, where it is traced, be it here or by its caller alone.
    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let method = if (self.ears.known)(path) { path.trim_start_matches('/') } else { "_OTHER" }.to_owned();
        let asked_by = Parent::of_call(request.headers());
        let span = match asked_by.is_some() || (self.ears.begins)(path) {
            true => span(&method),
            false => Span::none(),
        };
        if let Some(parent) = &asked_by {
            parent.adopt(&span);
        }
        if let Some(parent) = Parent::of(&span).or(asked_by) {
            request.extensions_mut().insert(parent);
        }
        let (began, durations, refused) = (Stopwatch::start(), &*DURATIONS, self.ears.refused);
        let call = Call { method, began, durations, refused, span: span.clone(), fails: is_fault, ended: false };
        let answer = span.in_scope(|| self.service.call(request));
        let answered = async move {
            let Ok(response) = answer.await;
            Ok(call.answer(response))
        };
        Box::pin(answered.instrument(span))
    }
}

fn span(method: &str) -> Span {
    crate::span!(
        parent: None,
        "call",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = Empty,
        "error.type" = Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = Empty,
        likeness.job.id = Empty,
    )
}

/// Whether a status is this side's fault, by OpenTelemetry's conventions for servers.
fn is_fault(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}
