//! A call from its request to the last of its answer, which may be a stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Frame, SizeHint};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Histogram;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::codegen::http::{HeaderMap, Response};
use tonic::{Code, Status};
use tracing::Span;

use super::status_name;
use crate::metrics::Stopwatch;
use crate::trace;

/// A call that goes on. One that is dropped before its end was cancelled.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: String,
    pub(super) began: Stopwatch,
    pub(super) durations: &'static Histogram<f64>,
    /// Hears of statuses that are no success.
    pub(super) refused: fn(&Status),
    pub(super) span: Span,
    /// Which statuses make the span a failed one.
    pub(super) fails: fn(Code) -> bool,
    pub(super) ended: bool,
}

impl Call {
    pub(super) fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let name = status_name(code);
        self.span.record("rpc.response.status_code", name);
        if (self.fails)(code) {
            trace::fail(&self.span, name);
        }
        let status = KeyValue::new("rpc.response.status_code", name);
        self.began.stop(self.durations, &[KeyValue::new("rpc.method", self.method.clone()), status]);
    }

    fn end_by(&mut self, status: &Status) {
        if status.code() != Code::Ok && !self.ended {
            (self.refused)(status);
        }
        self.end(status.code());
    }

    /// The answer, which ends the call: with its headers, where they hold a status, or with its body.
    pub(super) fn answer(mut self, response: Response<Body>) -> Response<Body> {
        match Status::from_header_map(response.headers()) {
            Some(status) => {
                self.end_by(&status);
                response
            }
            None => response.map(|body| Body::new(Answer { body, call: self })),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The body of an answer.
struct Answer {
    body: Body,
    call: Call,
}

impl Answer {
    fn trailers(&mut self, trailers: &HeaderMap) {
        match Status::from_header_map(trailers) {
            Some(status) => self.call.end_by(&status),
            None => self.call.end(Code::Unknown),
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.trailers(trailers);
                }
            }
            Some(Err(status)) => self.call.end_by(status),
            None => self.call.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
