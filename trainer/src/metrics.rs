//! The trainer's instruments. What they are called and what they mean stands in deploy/metrics.md.

use std::sync::LazyLock;
use std::time::Duration;

use likeness_telemetry::metrics::{self, Counter, Gauge, Histogram, KeyValue, Stopwatch};

use crate::{Learned, TrainError};

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    steps: metrics::counter("likeness.train.steps", "steps of the pack"),
    samples: metrics::counter("likeness.train.samples", "samples that went through the network and back"),
    loss: metrics::gauge("likeness.train.loss", "mean over the pack's subjects of the loss of their last step"),
    step: metrics::seconds("likeness.train.step.duration", "steps of the pack, all its subjects", metrics::WORK),
    all_reduce: metrics::seconds("likeness.all_reduce.duration", "sums over all ranks", metrics::QUICK),
    subjects: metrics::gauge("likeness.pack.subjects", "subjects in the pack"),
    slots: metrics::gauge("likeness.pack.slots", "subjects that the pack has room for"),
    ranks: metrics::gauge("likeness.ranks", "ranks that learn together; 0 while some are waited for"),
    trained: metrics::counter("likeness.subjects.trained", "runs that ended"),
});

struct Metrics {
    steps: Counter<u64>,
    samples: Counter<u64>,
    loss: Gauge<f64>,
    step: Histogram<f64>,
    all_reduce: Histogram<f64>,
    subjects: Gauge<f64>,
    slots: Gauge<f64>,
    ranks: Gauge<f64>,
    trained: Counter<u64>,
}

/// Steps of the pack were made, `samples` in all, within `time`.
pub(crate) fn steps(count: usize, samples: usize, time: Duration) {
    METRICS.steps.add(count as u64, &[]);
    METRICS.samples.add(samples as u64, &[]);
    for _ in 0..count {
        METRICS.step.record(time.as_secs_f64() / count as f64, &[]);
    }
}

/// The losses of the subjects' last steps.
pub(crate) fn losses(losses: &[f32]) {
    if !losses.is_empty() {
        METRICS.loss.record(losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / losses.len() as f64, &[]);
    }
}

/// So many are in the pack.
pub(crate) fn subjects(count: usize) {
    METRICS.subjects.record(count as f64, &[]);
}

/// So many have room there.
pub(crate) fn slots(count: usize) {
    METRICS.slots.record(count as f64, &[]);
}

/// So many ranks stand together.
pub(crate) fn ranks(count: usize) {
    METRICS.ranks.record(count as f64, &[]);
}

/// A sum over all ranks was made.
pub(crate) fn all_reduced(began: Stopwatch) {
    began.stop(&METRICS.all_reduce, &[]);
}

/// A run ended.
pub(crate) fn trained(ended: &Result<Learned, TrainError>) {
    let outcome = match ended {
        Ok(learned) => learned.reason.as_str(),
        Err(TrainError::Interrupted(_)) => "stopped",
        Err(TrainError::Diverged { .. }) => "diverged",
        Err(_) => "failed",
    };
    METRICS.trained.add(1, &[KeyValue::new("outcome", outcome)]);
}
