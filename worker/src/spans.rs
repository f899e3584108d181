//! The span of an attempt: a part of its job's trace. It names job and task by their ids, and nobody by name.

use likeness_proto::Grant;
use likeness_telemetry::span;
use likeness_telemetry::trace::{Parent, fail};
use tracing::Span;
use tracing::field::Empty;

use crate::reports::Report;

/// The span of an attempt at what was granted, if the job is traced.
pub(crate) fn of(grant: &Grant) -> Span {
    let Some(parent) = grant.traceparent.as_deref().and_then(Parent::read) else { return Span::none() };
    let span = span!(
        "task",
        otel.name = grant.work.kind().as_str(),
        otel.kind = "consumer",
        otel.status_code = Empty,
        "error.type" = Empty,
        likeness.job.id = %grant.job,
        likeness.task.id = %grant.lease.task,
        likeness.task.kind = grant.work.kind().as_str(),
        likeness.task.attempt = grant.attempt,
        likeness.task.outcome = Empty,
    );
    parent.adopt(&span);
    span
}

/// Says in the current span how the attempt ended; `None`: nobody wanted to hear it any more.
pub(crate) fn ended(report: Option<&Report>) {
    let span = Span::current();
    span.record("likeness.task.outcome", report.map_or("dropped", Report::name));
    if let Some(Report::Fail { error, .. }) = report {
        fail(&span, error.code.as_str_name());
    }
}
