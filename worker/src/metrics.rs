//! The worker's instruments. What they are called and what they mean stands in deploy/metrics.md.

use std::sync::LazyLock;

use likeness_proto::TaskKind;
use likeness_telemetry::metrics::{self, Gauge, KeyValue};

static DRAINED: LazyLock<Gauge<f64>> = LazyLock::new(|| {
    metrics::gauge("likeness.drained", "1 when the worker has given back all its tasks and takes no more")
});

/// Whether the worker of these tasks has been drained.
pub(crate) fn drained(kind: Option<&TaskKind>, is_drained: bool) {
    let kind = KeyValue::new("kind", kind.map_or("none", |kind| kind.as_str()));
    DRAINED.record(f64::from(u8::from(is_drained)), &[kind]);
}
