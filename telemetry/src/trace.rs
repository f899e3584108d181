//! Spans that are sent to a collector, and how they hang together over processes.
//!
//! They are spans of `tracing` under a target of their own: log lines do not show them, and a collector gets nothing else. Where none
//! is told, they do nothing.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tonic::codegen::http::HeaderMap;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The target of such spans. No crate is called so.
pub const TARGET: &str = "likeness-trace";

/// A span that is sent to a collector: `span!("name", field = value, …)`, a child of the one that is current, or
/// `span!(parent: …, "name", …)`.
#[macro_export]
macro_rules! span {
    (parent: $parent:expr, $($rest:tt)+) => {
        ::tracing::info_span!(target: $crate::trace::TARGET, parent: $parent, $($rest)+)
    };
    ($($rest:tt)+) => {
        ::tracing::info_span!(target: $crate::trace::TARGET, $($rest)+)
    };
}

/// As [`span!`], but only within a trace: it never begins one.
#[macro_export]
macro_rules! child {
    ($($rest:tt)+) => {
        if $crate::trace::Parent::current().is_some() { $crate::span!($($rest)+) } else { ::tracing::Span::none() }
    };
}

/// A span as others name it whose children they want to be: W3C's `traceparent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent(SpanContext);

const HEADER: &str = "traceparent";

impl Parent {
    /// The current span, if it is part of a trace.
    #[must_use]
    pub fn current() -> Option<Self> {
        Self::of(&Span::current())
    }

    /// This span, if it is part of a trace.
    #[must_use]
    pub fn of(span: &Span) -> Option<Self> {
        let context = span.context();
        let context = context.span().span_context().clone();
        context.is_valid().then_some(Self(context))
    }

    /// Reads `00-TRACE-SPAN-FLAGS`. What is none, nobody is told: a trace is not worth a refusal.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut next = |length| parts.next().filter(|part| part.len() == length && part.bytes().all(is_hex));
        let (version, trace, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
        let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
        let context = SpanContext::new(trace, span, flags, true, TraceState::default());
        context.is_valid().then_some(Self(context))
    }

    /// The one that a call's headers name.
    pub(crate) fn of_call(headers: &HeaderMap) -> Option<Self> {
        Self::read(headers.get(HEADER)?.to_str().ok()?)
    }

    /// Names it in a call's headers.
    pub(crate) fn name_in(&self, headers: &mut HeaderMap) {
        if let Ok(value) = self.to_string().parse() {
            headers.insert(HEADER, value);
        }
    }

    /// Makes `span` its child. To be said before anything else is done with `span`.
    pub fn adopt(&self, span: &Span) {
        // Refused where the span has begun, or nobody is told of spans.
        let _ = span.set_parent(Context::new().with_remote_span_context(self.0.clone()));
    }
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span, flags) = (self.0.trace_id(), self.0.span_id(), self.0.trace_flags());
        write!(f, "00-{trace}-{span}-{flags:02x}")
    }
}

/// The current span, if it is part of a trace; else none.
#[must_use]
pub fn current() -> Span {
    if Parent::current().is_some() { Span::current() } else { Span::none() }
}

/// Says in `span` that it has to do with `other`, of another trace.
pub fn link(span: &Span, other: &Span) {
    if let Some(Parent(other)) = Parent::of(other) {
        span.add_link(other);
    }
}

/// Says that what `span` tells of has failed: `kind` of a closed list, for whoever counts, and the reason in words that name nobody.
pub fn fail(span: &Span, kind: &str) {
    span.record("error.type", kind);
    span.record("otel.status_code", "ERROR");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_reads_back_what_it_names() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = Parent::read(text).unwrap();
        assert_eq!(parent.to_string(), text);
        let newer = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03-more";
        assert_eq!(Parent::read(newer), Some(parent), "of a newer version, what is known of it");
        let mut headers = HeaderMap::new();
        Parent::read(text).unwrap().name_in(&mut headers);
        assert_eq!(Parent::of_call(&headers).unwrap().to_string(), text);
    }

    #[test]
    fn what_is_none_is_read_as_none() {
        for text in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Parent::read(text), None, "{text}");
        }
    }

    #[test]
    fn without_anybody_who_is_told_there_is_no_trace() {
        let span = crate::span!("nothing");
        assert_eq!(Parent::of(&span), None);
        let _entered = span.enter();
        assert!(crate::child!("less").is_none());
    }
}
