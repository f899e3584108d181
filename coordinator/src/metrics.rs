//! The coordinator's instruments. What they are called and what they mean stands in deploy/metrics.md.

use std::sync::LazyLock;
use std::time::Duration;

use likeness_proto::{Refusal, TaskKind};
use likeness_telemetry::metrics::{self, Counter, Gauge, Histogram, KeyValue, Present, Stopwatch, UpDownCounter};
use tonic::Status;

use crate::audit::{Broken, Verified};
use crate::clock::{Clock, SystemClock};
use crate::lifecycle::JobState;
use crate::store::{Census, Class, Presence, StoreError};

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

struct Metrics {
    store: Histogram<f64>,
    queue_tasks: Gauge<f64>,
    queue_oldest: Gauge<f64>,
    leases: Gauge<f64>,
    jobs: Gauge<f64>,
    workers: Gauge<f64>,
    jobs_ended: Counter<u64>,
    expiries: Counter<u64>,
    attempts: Counter<u64>,
    dead_letters: Counter<u64>,
    watches: UpDownCounter<i64>,
    refusals: Counter<u64>,
    upload_bytes: Counter<u64>,
    audit_entries: Gauge<f64>,
    audit_broken: Gauge<f64>,
    audit_verified: Gauge<f64>,
}

impl Metrics {
    fn new() -> Self {
        let meter = metrics::meter();
        let oldest = meter.f64_gauge("likeness.queue.oldest_wait").with_unit("s");
        let verified = meter.f64_gauge("likeness.audit.verified_time").with_unit("s");
        let bytes = meter.u64_counter("likeness.upload").with_unit("By");
        Self {
            store: metrics::seconds("likeness.store.operation.duration", "transactions of the store", metrics::QUICK),
            queue_tasks: metrics::gauge("likeness.queue.tasks", "tasks that are ready and wait for a worker"),
            queue_oldest: oldest.with_description("how long the one waits that has waited longest").build(),
            leases: metrics::gauge("likeness.leases", "tasks that workers are at"),
            jobs: metrics::gauge("likeness.jobs", "jobs that have not ended"),
            workers: metrics::gauge("likeness.workers", "workers that have asked for work, or are at it"),
            jobs_ended: metrics::counter("likeness.jobs.ended", "jobs that ended"),
            expiries: metrics::counter("likeness.lease.expiries", "leases that ran out"),
            attempts: metrics::counter("likeness.attempts", "attempts at tasks that ended"),
            dead_letters: metrics::counter("likeness.dead_letters", "tasks that were given up after their last try"),
            watches: metrics::level("likeness.watches", "jobs that are being watched"),
            refusals: metrics::counter("likeness.refusals", "calls that were refused or failed"),
            upload_bytes: bytes.with_description("photos as they were received").build(),
            audit_entries: metrics::gauge(
                "likeness.audit.entries",
                "entries of the audit log when it was last found whole",
            ),
            audit_broken: metrics::gauge("likeness.audit.broken", "1: the audit log is not what was written"),
            audit_verified: verified.with_description("when the audit log was last found whole, since 1970").build(),
        }
    }
}

/// How an attempt at a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Completed,
    Failed,
    /// Its lease ran out.
    Expired,
    /// Its worker is gone: another incarnation has its name.
    Abandoned,
    Released,
}

/// The end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) kind: TaskKind,
    pub(crate) outcome: Outcome,
    /// It was the task's last.
    pub(crate) dead: bool,
}

fn kind(kind: TaskKind) -> KeyValue {
    KeyValue::new("kind", kind.as_str())
}

/// An attempt ended.
pub(crate) fn attempt(attempt: Attempt) {
    let kind = [kind(attempt.kind)];
    let outcome = match attempt.outcome {
        Outcome::Completed => "completed",
        Outcome::Failed => "failed",
        Outcome::Expired | Outcome::Abandoned => "expired",
        Outcome::Released => "released",
    };
    METRICS.attempts.add(1, &[kind[0].clone(), KeyValue::new("outcome", outcome)]);
    if attempt.outcome == Outcome::Expired {
        METRICS.expiries.add(1, &kind);
    }
    if attempt.dead {
        METRICS.dead_letters.add(1, &kind);
    }
}

/// A job ended.
pub(crate) fn job_ended(state: JobState) {
    METRICS.jobs_ended.add(1, &[job_state(state)]);
}

fn job_state(state: JobState) -> KeyValue {
    let name = match state {
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::PartlyFailed => "partly_failed",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    };
    KeyValue::new("state", name)
}

/// Somebody watches a job, until what this gives is dropped.
pub(crate) fn watch() -> Present {
    Present::of(&METRICS.watches)
}

/// A call did not succeed.
pub(crate) fn refused(status: &Status) {
    METRICS.refusals.add(1, &[KeyValue::new("code", code_name(status))]);
}

fn code_name(status: &Status) -> String {
    let code = Refusal::read(status).code;
    code.as_str_name().trim_start_matches("ERROR_CODE_").to_ascii_lowercase()
}

/// So much of an upload came in.
pub(crate) fn uploaded(bytes: usize) {
    METRICS.upload_bytes.add(bytes as u64, &[]);
}

/// The audit log was walked along.
pub(crate) fn audit(found: &Result<Verified, Broken>) {
    METRICS.audit_broken.record(if found.is_err() { 1.0 } else { 0.0 }, &[]);
    if let Ok(Verified { entries, .. }) = found {
        METRICS.audit_entries.record(*entries as f64, &[]);
        METRICS.audit_verified.record(SystemClock.now().millis() as f64 / 1e3, &[]);
    }
}

/// A transaction of the store ended. One that refuses has done its work.
pub(crate) fn store<T>(operation: &'static str, began: Stopwatch, answer: &Result<T, StoreError>) {
    let is_ok = matches!(answer, Ok(_) | Err(StoreError::Refused(_)));
    began.stop(&METRICS.store, &[KeyValue::new("operation", operation), metrics::outcome(is_ok)]);
}

/// What the store has counted. What it has not is told as 0, since a gauge keeps what it was last told.
pub(crate) fn census(census: &Census) {
    let seconds = |span: Option<&Duration>| span.map_or(0.0, Duration::as_secs_f64);
    for task in TaskKind::ALL {
        for class in Class::ALL {
            let (place, labels) = ((*task, class), [kind(*task), KeyValue::new("class", class.as_str())]);
            let waiting = census.waiting.get(&place);
            METRICS.queue_tasks.record(waiting.map_or(0, |waiting| waiting.tasks) as f64, &labels);
            METRICS.queue_oldest.record(seconds(waiting.map(|waiting| &waiting.oldest)), &labels);
        }
        METRICS.leases.record(census.leases.get(task).copied().unwrap_or(0) as f64, &[kind(*task)]);
        for presence in Presence::ALL {
            let count = census.workers.get(&(*task, presence)).copied().unwrap_or(0);
            METRICS.workers.record(count as f64, &[kind(*task), KeyValue::new("state", presence.as_str())]);
        }
    }
    for state in [JobState::Queued, JobState::Running] {
        let jobs = census.jobs.iter().find(|(counted, _)| *counted == state).map_or(0, |(_, jobs)| *jobs);
        METRICS.jobs.record(jobs as f64, &[job_state(state)]);
    }
}
