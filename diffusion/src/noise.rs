//! Counter-based noise: a value is a function of its key alone.

use candle_core::{Device, Result, Shape, Tensor};

/// What a draw is for; draws for different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Noise of a training sample.
    Training,
    /// Noise of the fixed evaluation set.
    Evaluation,
    /// Which timestep.
    Timestep,
    /// Which prompt template.
    Template,
    /// Whether to flip.
    Flip,
    /// Initial latents of a picture.
    Latents,
    /// Noise of an ancestral sampler's step.
    Ancestral,
}

/// Names one draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NoiseKey {
    /// Of the subject or the picture.
    pub seed: u64,
    /// What for.
    pub purpose: Purpose,
    /// Which step.
    pub step: u64,
    /// Which sample of the step.
    pub sample: u64,
}

impl NoiseKey {
    /// Standard normal values, f32.
    ///
    /// # Errors
    /// The device refuses the tensor.
    pub fn normal(&self, _shape: impl Into<Shape>, _device: &Device) -> Result<Tensor> {
        unimplemented!("being written")
    }

    /// A number below `n`, each equally likely.
    pub fn below(&self, _n: u64) -> u64 {
        unimplemented!("being written")
    }
}
