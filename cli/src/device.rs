//! Where tensors live, and what they are computed in there.

use crate::exit::{Exit, Failure};
use crate::telemetry::watch_gpu;
use likeness_diffusion::{DType, Device};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// The device that is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum DeviceWish {
    /// The processor, by kernels of our own.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by its number.
    Cuda(usize),
}

/// The precision that is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionWish {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of 32.
    Bf16,
}

impl FromStr for DeviceWish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("cuda:").map(str::parse)) {
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(Ok(number))) => Ok(Self::Cuda(number)),
            _ => Err(format!("the device {text:?} is none; accepted are cpu, cuda and cuda:N")),
        }
    }
}

impl TryFrom<String> for DeviceWish {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl DeviceWish {
    /// The device of rank `rank` of this node.
    ///
    /// # Errors
    /// [`Exit::Device`] with what to do where it is not there, or this program cannot use it.
    pub fn open(self, rank: usize) -> Result<Device, Failure> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(first) => {
                let number = first + rank;
                let device = cuda(number).map_err(|message| Failure::new(Exit::Device, message))?;
                watch_gpu(&device, format!("cuda:{number}"));
                Ok(device)
            }
        }
    }
}

/// The GPU of this number; or, in a sentence, why there is none.
#[cfg(feature = "cuda")]
pub(crate) fn cuda(number: usize) -> Result<Device, String> {
    Device::new_cuda(number).map_err(|error| {
        let told = error.to_string();
        let told = told.lines().next().unwrap_or_default();
        format!(
            "there is no CUDA device {number}: {told}; look at nvidia-smi, give the container a GPU, or choose the device cpu"
        )
    })
}

/// Without the feature there is none.
#[cfg(not(feature = "cuda"))]
pub(crate) fn cuda(number: usize) -> Result<Device, String> {
    Err(format!(
        "the device cuda:{number} cannot be used: this program was built without CUDA; take the CUDA image, build with \
         --features cuda, or choose the device cpu"
    ))
}

impl PrecisionWish {
    /// The type of tensors on `device`.
    ///
    /// # Errors
    /// [`Exit::Setting`] for halves on the CPU, whose kernels know f32 alone.
    pub fn on(self, device: &Device) -> Result<DType, Failure> {
        match (self, device) {
            (Self::F32, _) => Ok(DType::F32),
            (Self::Bf16, Device::Cpu) => {
                let message = "the precision bf16 needs a GPU; set precision to f32, or device to cuda";
                Err(Failure::new(Exit::Setting, message.to_owned()))
            }
            (Self::Bf16, _) => Ok(DType::BF16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_everywhere() {
        let wish = |text: &str| text.parse::<DeviceWish>();
        assert_eq!(
            (wish("cpu"), wish("cuda"), wish("cuda:3")),
            (Ok(DeviceWish::Cpu), Ok(DeviceWish::Cuda(0)), Ok(DeviceWish::Cuda(3)))
        );
        for wrong in ["gpu", "cuda:", "cuda:x", "CPU", ""] {
            assert!(wish(wrong).unwrap_err().contains("cpu, cuda and cuda:N"), "{wrong}");
        }
    }

    #[test]
    fn halves_on_the_cpu_are_refused() {
        assert_eq!(PrecisionWish::Bf16.on(&Device::Cpu).unwrap_err().exit, Exit::Setting);
        assert_eq!(PrecisionWish::F32.on(&Device::Cpu).unwrap(), DType::F32);
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_program_without_cuda_says_so_where_a_gpu_is_asked_for() {
        let failure = DeviceWish::Cuda(1).open(2).unwrap_err();
        assert!(
            failure.exit == Exit::Device
                && failure.message.contains("cuda:3")
                && failure.message.contains("without CUDA"),
            "{failure}"
        );
    }
}
