//! Resnets, and the resampling between resolutions. Pictures are `(b, h, w, c)`.

use candle_core::Result;

use crate::error::LoadError;
use crate::ops::conv::{Conv3x3, Stride};
use crate::ops::glue::upsample_nearest;
use crate::ops::group_norm::{GroupNorm, Then};
use crate::ops::linear::Linear;
use crate::ops::tape::Value;
use crate::weights::{Groups, Scope};

/// diffusers' `ResnetBlock2D`, with a timestep in the UNet and without one in the VAE.
#[derive(Debug)]
pub(crate) struct Resnet {
    norm1: GroupNorm,
    conv1: Conv3x3,
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv3x3,
    shortcut: Option<Linear>,
}

impl Resnet {
    /// `time` is the width of the timestep's embedding.
    pub(crate) fn load(
        scope: &Scope<'_>,
        inputs: usize,
        outputs: usize,
        time: Option<usize>,
        groups: Groups,
    ) -> std::result::Result<Self, LoadError> {
        let shortcut = (inputs != outputs).then(|| scope.pp("conv_shortcut").pointwise(inputs, outputs));
        Ok(Self {
            norm1: scope.pp("norm1").group_norm(inputs, groups, Then::Silu)?,
            conv1: scope.pp("conv1").conv(inputs, outputs, Stride::One)?,
            time: time.map(|width| scope.pp("time_emb_proj").linear(width, outputs)).transpose()?,
            norm2: scope.pp("norm2").group_norm(outputs, groups, Then::Silu)?,
            conv2: scope.pp("conv2").conv(outputs, outputs, Stride::One)?,
            shortcut: shortcut.transpose()?,
        })
    }

    /// `x` `(b, h, w, inputs)`, `time` = SiLU of the timestep's embedding `(b, width)`, to `(b, h, w, outputs)`.
    pub(crate) fn forward(&self, x: &Value, time: Option<&Value>) -> Result<Value> {
        let h = self.norm1.forward(x)?;
        let h = match (&self.time, time) {
            (Some(project), Some(time)) => self.conv1.forward_shifted(&h, project.forward(time)?.tensor())?,
            _ => self.conv1.forward(&h)?,
        };
        let h = self.norm2.forward(&h)?;
        match &self.shortcut {
            Some(shortcut) => self.conv2.forward_add(&h, &shortcut.forward(x)?),
            None => self.conv2.forward_add(&h, x),
        }
    }

    /// Gives back the memory of mapped weights until they are read again.
    pub(crate) fn release(&self) {
        [&self.conv1, &self.conv2].into_iter().for_each(Conv3x3::release);
        self.time.iter().chain(&self.shortcut).for_each(Linear::release);
    }
}

/// Halves the sides.
#[derive(Debug)]
pub(crate) struct Downsample(Conv3x3);

impl Downsample {
    /// With `stride` two, padded as the component has it.
    pub(crate) fn load(scope: &Scope<'_>, width: usize, stride: Stride) -> std::result::Result<Self, LoadError> {
        Ok(Self(scope.pp("conv").conv(width, width, stride)?))
    }

    pub(crate) fn forward(&self, x: &Value) -> Result<Value> {
        self.0.forward(x)
    }
}

/// Enlarges, then smooths.
#[derive(Debug)]
pub(crate) struct Upsample(Conv3x3);

impl Upsample {
    pub(crate) fn load(scope: &Scope<'_>, width: usize) -> std::result::Result<Self, LoadError> {
        Ok(Self(scope.pp("conv").conv(width, width, Stride::One)?))
    }

    pub(crate) fn forward(&self, x: &Value, (height, width): (usize, usize)) -> Result<Value> {
        self.0.forward(&upsample_nearest(x, height, width)?)
    }
}
