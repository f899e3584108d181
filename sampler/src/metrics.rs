//! The sampler's instruments. What they are called and what they mean stands in deploy/metrics.md.

use std::sync::LazyLock;

use likeness_telemetry::metrics::{self, Counter, Gauge, Histogram};

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    images: metrics::counter("likeness.images", "avatars drawn"),
    step: metrics::seconds("likeness.render.step.duration", "steps of all pictures under way", metrics::WORK),
    decode: metrics::seconds("likeness.decode.duration", "pictures from latents to pixels", metrics::WORK),
    under_way: metrics::gauge("likeness.pictures.under_way", "pictures that are being drawn"),
});

pub(crate) struct Metrics {
    pub(crate) images: Counter<u64>,
    pub(crate) step: Histogram<f64>,
    pub(crate) decode: Histogram<f64>,
    pub(crate) under_way: Gauge<f64>,
}
