//! Around every handler: room for it, a time within which it answers, and what browsers are told to refuse.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::{Frame, SizeHint};
use tokio::time::timeout;

use super::desk::Desk;
use super::oops::Oops;
use crate::limits::Peer;
use crate::store::Store;

/// Nothing from elsewhere, nothing inline, and no frame around it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Lets a request pass, if there is room.
pub(super) async fn guard<S: Store>(State(desk): State<Arc<Desk<S>>>, request: Request, next: Next) -> Response {
    let mut call = request.extensions().get().map(|peer: &Peer| peer.connection.begin());
    let streams = request.uri().path().ends_with("/events");
    let room = if streams { desk.turnstile.stream() } else { desk.turnstile.call() };
    let mut response = match room {
        Err(refusal) => Oops::from(refusal).into_response(),
        Ok(room) => match timeout(desk.shared().limits.call, next.run(request)).await {
            Err(_late) => (StatusCode::SERVICE_UNAVAILABLE, "not answered in time; try again\n").into_response(),
            Ok(response) => response.map(|body| Body::new(Held { body, _held: Box::new((room, call.take())) })),
        },
    };
    if let Some(call) = &mut call {
        call.answered();
    }
    harden(response.headers_mut());
    response
}

/// Adds what browsers are told; a handler's own word counts more.
fn harden(headers: &mut HeaderMap) {
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// A body that holds something until it has been sent.
struct Held {
    body: Body,
    _held: Box<dyn Any + Send>,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
