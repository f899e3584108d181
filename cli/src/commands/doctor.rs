//! What this program finds on its machine: whether it can do what its settings ask for, and what to do where it cannot.

use super::Context;
use crate::device::{self, DeviceWish};
use crate::exit::{Exit, Failure};
use crate::output::columns;
use crate::settings::Settings;
use crate::{build, bundle, memory, models};
use serde::Serialize;

/// Devices that are looked for.
const MOST_DEVICES: usize = 64;

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
pub(super) fn command(context: &Context) -> Result<(), Failure> {
    let settings = &context.settings;
    let on_gpu = matches!(settings.device, DeviceWish::Cuda(_));
    let checks = vec![
        Check::of("memory", true, Exit::Unexpected, free_memory()),
        Check::of("cuda", on_gpu, Exit::Device, gpus(settings)),
        Check::of("nccl", on_gpu && settings.ranks * settings.group_size > 1, Exit::Device, nccl()),
        Check::of("model", true, Exit::Model, model(settings)),
    ];
    let report = Report { version: env!("CARGO_PKG_VERSION"), features: build::features(), checks };
    context.format.print(&report, |report| {
        let line =
            |check: &Check| [check.name, if check.ok { "ok" } else { "missing" }, &check.says].map(str::to_owned);
        columns(&report.checks.iter().map(line).collect::<Vec<_>>())
    })?;
    match report.checks.into_iter().find(|check| check.needed && !check.ok) {
        Some(Check { name, says, exit, .. }) => Err(Failure::new(exit, format!("{name}: {says}"))),
        None => Ok(()),
    }
}

impl Check {
    fn of(name: &'static str, needed: bool, exit: Exit, found: Result<String, String>) -> Self {
        let ok = found.is_ok();
        Self { name, ok, needed, says: found.unwrap_or_else(|why| why), exit }
    }
}

fn free_memory() -> Result<String, String> {
    match memory::within_reach() {
        Some(bytes) => Ok(format!("{} MiB are within reach", bytes >> 20)),
        None => Ok("this system does not say how much there is".to_owned()),
    }
}

/// The GPUs from the first that the settings name on.
fn gpus(settings: &Settings) -> Result<String, String> {
    let first = match settings.device {
        DeviceWish::Cpu => 0,
        DeviceWish::Cuda(first) => first,
    };
    device::cuda(first)?;
    let count = (first + 1..first + MOST_DEVICES).take_while(|number| device::cuda(*number).is_ok()).count() + 1;
    match settings.device {
        DeviceWish::Cuda(_) if count < settings.ranks => Err(format!(
            "there are {count} GPUs from cuda:{first} on, ranks is {}; set ranks to {count}",
            settings.ranks
        )),
        _ => Ok(format!("{count} GPUs from cuda:{first} on")),
    }
}

#[cfg(feature = "nccl")]
fn nccl() -> Result<String, String> {
    let id = likeness_trainer::collective::new_id()?;
    Ok(format!("NCCL handed out the id {}…", hex::encode(&id[..8])))
}

#[cfg(not(feature = "nccl"))]
fn nccl() -> Result<String, String> {
    Err("this program was built without NCCL; take the CUDA image, or build with --features nccl".to_owned())
}

fn model(settings: &Settings) -> Result<String, String> {
    let dir = bundle::model_dir(settings.model.as_deref()).map_err(|failure| failure.message)?;
    let model = models::load(&settings.on_cpu()).map_err(|failure| failure.message)?;
    Ok(format!("{} is whole: {}", dir.display(), model.digest))
}
