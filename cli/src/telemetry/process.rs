//! What a process tells of itself, whatever it does.

use crate::memory;
use likeness_diffusion::{Device, memory::of_gpu};
use likeness_telemetry::metrics::{KeyValue, gauge, meter};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Ticks of `/proc/self/stat` in a second: Linux tells programs 100, whatever it counts by itself.
const TICKS: f64 = 100.0;

/// Tells of this process from now on.
pub(super) fn watch(role: &'static str) {
    let version = KeyValue::new("version", env!("CARGO_PKG_VERSION"));
    gauge("likeness.build.info", "1; what this program is").record(1.0, &[version, KeyValue::new("role", role)]);
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let meter = meter();
    let start = meter.f64_gauge("process.start_time").with_unit("s").with_description("when it started, since 1970");
    start.build().record(started, &[]);
    let resident = meter.u64_observable_gauge("process.resident_memory").with_unit("By");
    let _observed = resident
        .with_description("memory that is resident")
        .with_callback(|observer| {
            if let Some(bytes) = memory::resident() {
                observer.observe(bytes, &[]);
            }
        })
        .build();
    let processor = meter.f64_observable_counter("process.cpu").with_unit("s");
    let _observed = processor
        .with_description("time of processors that was used")
        .with_callback(|observer| {
            if let Some(seconds) = cpu_seconds(&fs::read_to_string("/proc/self/stat").unwrap_or_default()) {
                observer.observe(seconds, &[]);
            }
        })
        .build();
}

/// Tells of the memory of a GPU from now on; of the CPU nothing.
pub(crate) fn watch_gpu(device: &Device, name: String) {
    if of_gpu(device).is_none() {
        return;
    }
    let (device, meter) = (device.clone(), meter());
    let memory = meter.u64_observable_gauge("likeness.gpu.memory").with_unit("By");
    let _observed = memory
        .with_description("memory of a GPU, whoever uses it")
        .with_callback(move |observer| {
            let Some((used, all)) = of_gpu(&device) else { return };
            let labels = |state| [KeyValue::new("device", name.clone()), KeyValue::new("state", state)];
            observer.observe(used, &labels("used"));
            observer.observe(all.saturating_sub(used), &labels("free"));
        })
        .build();
}

/// Seconds of processors, own and the system's for it, by the text of `/proc/self/stat`. The program's name in it may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(|field| field.parse::<f64>().ok());
    Some((times.next()?? + times.next()??) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_processors_is_read_whatever_the_program_is_called() {
        let stat = "4242 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 99 1000 10";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds(""), None);
        if cfg!(target_os = "linux") {
            assert!(cpu_seconds(&fs::read_to_string("/proc/self/stat").unwrap()).is_some());
        }
    }
}
