//! What this program finds on its machine and where it has to reach: whether it can do what its settings ask for, and what to do
//! where it cannot.

mod machine;
mod places;

use super::Context;
use crate::build;
use crate::device::DeviceWish;
use crate::exit::{Exit, Failure};
use crate::output::columns;
use serde::Serialize;

/// What was found, in a sentence; or what is wrong and what to do about it.
type Finding = Result<String, String>;

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    features: Vec<&'static str>,
    checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    /// Whether the settings in force need it.
    needed: bool,
    says: String,
    #[serde(skip)]
    exit: Exit,
}

/// Prints a line for each check.
///
/// # Errors
/// That of the first check that failed and is needed.
pub(super) async fn command(context: &Context) -> Result<(), Failure> {
    let settings = &context.settings;
    let on_gpu = matches!(settings.device, DeviceWish::Cuda(_));
    let weights = machine::weights(settings);
    let memory = machine::memory(settings, weights);
    let model = machine::model(settings, memory.is_ok());
    let (bucket, bucket_clock) = places::bucket(settings).await;
    let (store, store_clock) = places::store(settings).await;
    let checks = vec![
        Check::of("memory", true, Exit::Unexpected, memory),
        Check::of("driver", on_gpu, Exit::Device, machine::driver()),
        Check::of("cuda", on_gpu, Exit::Device, machine::gpus(settings, weights)),
        Check::of("nccl", on_gpu && settings.ranks * settings.group_size > 1, Exit::Device, machine::nccl()),
        Check::of("model", true, Exit::Model, model),
        Check::of("bucket", true, Exit::Bucket, bucket),
        Check::of("store", true, Exit::State, store),
        Check::of("clock", true, Exit::Unexpected, places::clock([store_clock, bucket_clock])),
    ];
    let report = Report { version: env!("CARGO_PKG_VERSION"), features: build::features(), checks };
    context.format.print(&report, |report| {
        let line = |check: &Check| [check.name, check.word(), &check.says].map(str::to_owned);
        columns(&report.checks.iter().map(line).collect::<Vec<_>>())
    })?;
    match report.checks.into_iter().find(|check| check.needed && !check.ok) {
        Some(Check { name, says, exit, .. }) => Err(Failure::new(exit, format!("{name}: {says}"))),
        None => Ok(()),
    }
}

impl Check {
    fn of(name: &'static str, needed: bool, exit: Exit, found: Finding) -> Self {
        let ok = found.is_ok();
        Self { name, ok, needed, says: found.unwrap_or_else(|why| why), exit }
    }

    fn word(&self) -> &'static str {
        match (self.ok, self.needed) {
            (true, _) => "ok",
            (false, true) => "WRONG",
            (false, false) => "not here",
        }
    }
}
