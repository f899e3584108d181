//! The machine: memory, GPUs and what drives them, the model's files.

use super::Finding;
use crate::device::{self, DeviceWish};
use crate::settings::Settings;
use crate::{bundle, memory, models};
use likeness_diffusion::memory::of_gpu;
use std::fs;

/// Devices that are looked for.
const MOST_DEVICES: usize = 64;
/// Where the kernel module says its version.
const DRIVER: &str = "/proc/driver/nvidia/version";
/// The oldest driver that runs programs of CUDA 13.
const OLDEST_DRIVER: u32 = 580;

/// Bytes of the weights of the model that is set; none: it has none.
pub(super) fn weights(settings: &Settings) -> Option<u64> {
    models::stored_bytes(settings).ok()
}

/// Weights that are pages of a file need no memory of their own.
pub(super) fn memory(settings: &Settings, weights: Option<u64>) -> Finding {
    let held = weights.filter(|_| settings.checkpointing != Some(true));
    fits(memory::within_reach(), held).map_err(|why| format!("{why}; or, to train only, set checkpointing to true"))
}

fn fits(reach: Option<u64>, weights: Option<u64>) -> Finding {
    let mib = |bytes: u64| bytes >> 20;
    match (reach, weights) {
        (None, _) => Ok("this system does not say how much there is".to_owned()),
        (Some(reach), Some(weights)) if reach < weights => Err(format!(
            "{} MiB are within reach and the model's weights alone take {}; free some, raise the container's limit, or take a smaller \
             model or one in halves",
            mib(reach),
            mib(weights)
        )),
        (Some(reach), Some(weights)) => {
            Ok(format!("{} MiB are within reach, the model's weights take {}", mib(reach), mib(weights)))
        }
        (Some(reach), None) => Ok(format!("{} MiB are within reach", mib(reach))),
    }
}

pub(super) fn driver() -> Finding {
    driver_of(fs::read_to_string(DRIVER).ok().as_deref())
}

/// What the kernel module says is like `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build …`.
fn driver_of(said: Option<&str>) -> Finding {
    let Some(said) = said else {
        return Err(format!(
            "no NVIDIA driver is loaded ({DRIVER} is not there); install driver {OLDEST_DRIVER} or newer on the node, or give the \
             container a GPU"
        ));
    };
    let major = |word: &str| word.split_once('.')?.0.parse::<u32>().ok();
    let line = said.lines().next().unwrap_or_default();
    match line.split_whitespace().find_map(|word| Some((word, major(word)?))) {
        Some((version, major)) if major < OLDEST_DRIVER => Err(format!(
            "the NVIDIA driver is {version}, and CUDA 13 needs {OLDEST_DRIVER} or newer; update the driver of the node"
        )),
        Some((version, _)) => Ok(format!("NVIDIA driver {version}")),
        None => Err(format!("{DRIVER} names no version: {line:?}; reinstall the driver of the node")),
    }
}

/// The GPUs from the first that the settings name on.
pub(super) fn gpus(settings: &Settings, weights: Option<u64>) -> Finding {
    let first = match settings.device {
        DeviceWish::Cpu => 0,
        DeviceWish::Cuda(first) => first,
    };
    let gpus: Vec<_> = (first..first + MOST_DEVICES).map_while(|number| device::cuda(number).ok()).collect();
    let count = gpus.len();
    if count == 0 {
        device::cuda(first)?;
    }
    if matches!(settings.device, DeviceWish::Cuda(_)) && count < settings.ranks {
        let ranks = settings.ranks;
        return Err(format!("there are {count} GPUs from cuda:{first} on, ranks is {ranks}; set ranks to {count}"));
    }
    let least = gpus.iter().filter_map(of_gpu).map(|(taken, all)| all.saturating_sub(taken)).min();
    fits(least, weights).map_err(|why| format!("of a GPU's memory {why}; or end what else uses it, see nvidia-smi"))?;
    let free = least.map(|bytes| format!(", at least {} MiB free on each", bytes >> 20)).unwrap_or_default();
    Ok(format!("{count} GPUs from cuda:{first} on{free}"))
}

#[cfg(feature = "nccl")]
pub(super) fn nccl() -> Finding {
    let id = likeness_trainer::collective::new_id()?;
    Ok(format!("NCCL handed out the id {}…", hex::encode(&id[..8])))
}

#[cfg(not(feature = "nccl"))]
pub(super) fn nccl() -> Finding {
    Err("this program was built without NCCL; take the CUDA image, or build with --features nccl".to_owned())
}

/// `enough`: there is memory to load it.
pub(super) fn model(settings: &Settings, enough: bool) -> Finding {
    let dir = bundle::model_dir(settings.model.as_deref()).map_err(|failure| failure.message)?;
    if !enough {
        return Err(format!("{} was not loaded: see memory", dir.display()));
    }
    let model = models::load(&settings.on_cpu())
        .map_err(|failure| format!("{}; download it again, or name another with --model", failure.message))?;
    Ok(format!("{} is whole: {}", dir.display(), model.digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_below_the_weights_is_wrong() {
        assert!(fits(Some(4 << 30), Some(3 << 30)).unwrap().contains("take 3072"));
        let why = fits(Some(1 << 30), Some(3 << 30)).unwrap_err();
        assert!(why.contains("1024 MiB") && why.contains("3072") && why.contains("raise"), "{why}");
        assert!(fits(None, Some(1)).is_ok() && fits(Some(1), None).is_ok());
    }

    #[test]
    fn a_driver_is_told_by_its_version_and_an_old_one_is_wrong() {
        let said = |version: &str| {
            format!(
                "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build  (x)\nGCC version:  gcc version 12.2.0"
            )
        };
        assert_eq!(driver_of(Some(&said("580.65.06"))).unwrap(), "NVIDIA driver 580.65.06");
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.127.05  Tue Oct  8 03:22:07 UTC 2024\n";
        let why = driver_of(Some(closed)).unwrap_err();
        assert!(why.contains("550.127.05") && why.contains("update the driver"), "{why}");
        assert!(driver_of(Some("NVRM version:")).unwrap_err().contains("reinstall"));
        assert!(driver_of(None).unwrap_err().contains("install driver 580"));
    }
}
