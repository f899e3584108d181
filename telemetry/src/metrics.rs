//! Instruments of the one meter. Their names are OpenTelemetry's; Prometheus shows `likeness.lease.expiries` as
//! `likeness_lease_expiries_total`, and a unit of seconds as `_seconds`. Every crate has its instruments in one file.

use std::time::Instant;

pub use opentelemetry::KeyValue;
use opentelemetry::global;
pub use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, UpDownCounter};

/// Buckets, in seconds, for what goes over a network: those that OpenTelemetry recommends for calls, and two below.
pub const CALLS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Buckets, in seconds, for what is done within a process or beside it.
pub const QUICK: &[f64] = &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
/// Buckets, in seconds, for what a processor or a GPU works at.
pub const WORK: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The meter of all of Likeness.
#[must_use]
pub fn meter() -> Meter {
    global::meter("likeness")
}

/// Durations, in seconds, told by `buckets`.
#[must_use]
pub fn seconds(name: &'static str, description: &'static str, buckets: &[f64]) -> Histogram<f64> {
    let meter = meter();
    let histogram = meter.f64_histogram(name).with_unit("s").with_description(description);
    histogram.with_boundaries(buckets.to_vec()).build()
}

/// A number that only grows.
#[must_use]
pub fn counter(name: &'static str, description: &'static str) -> Counter<u64> {
    meter().u64_counter(name).with_description(description).build()
}

/// A number that rises and falls.
#[must_use]
pub fn gauge(name: &'static str, description: &'static str) -> Gauge<f64> {
    meter().f64_gauge(name).with_description(description).build()
}

/// How many there are now, counted where they come and go.
#[must_use]
pub fn level(name: &'static str, description: &'static str) -> UpDownCounter<i64> {
    meter().i64_up_down_counter(name).with_description(description).build()
}

/// One of a level, until it is dropped.
#[derive(Debug)]
pub struct Present(UpDownCounter<i64>);

impl Present {
    /// One more.
    #[must_use]
    pub fn of(level: &UpDownCounter<i64>) -> Self {
        level.add(1, &[]);
        Self(level.clone())
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.add(-1, &[]);
    }
}

/// Since when something goes on.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// From now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Adds the time since to `histogram`.
    pub fn stop(self, histogram: &Histogram<f64>, attributes: &[KeyValue]) {
        histogram.record(self.0.elapsed().as_secs_f64(), attributes);
    }
}

/// `ok` or `error`, as the attribute `outcome`.
#[must_use]
pub fn outcome(is_ok: bool) -> KeyValue {
    KeyValue::new("outcome", if is_ok { "ok" } else { "error" })
}
