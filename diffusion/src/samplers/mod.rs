//! From noise to latents.

use candle_core::{Result, Tensor};

use crate::schedule::NoiseSchedule;

/// Which sampler renders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplerKind {
    /// DDIM without noise (η = 0).
    Ddim,
    /// Euler ancestral: fresh noise each step.
    EulerAncestral,
    /// UniPC, a fast multistep method.
    UniPc,
}

/// One run of a sampler over all its timesteps.
pub trait Sampler: Send {
    /// The timesteps in the order of the run.
    fn timesteps(&self) -> &[u32];

    /// Standard deviation of the initial latents.
    fn init_noise_sigma(&self) -> f64;

    /// What the UNet is given in place of `sample` at step `index`.
    ///
    /// # Errors
    /// An index past the end.
    fn scale_model_input(&self, sample: &Tensor, index: usize) -> Result<Tensor>;

    /// True if [`Self::step`] wants noise.
    fn wants_noise(&self) -> bool;

    /// The sample after step `index`.
    ///
    /// # Errors
    /// Noise that is missing, or shapes that do not fit.
    fn step(&mut self, output: &Tensor, index: usize, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor>;
}

impl SamplerKind {
    /// A sampler for `steps` steps.
    ///
    /// # Errors
    /// `steps` that the schedule cannot give.
    pub fn build(self, _schedule: &NoiseSchedule, _steps: usize) -> Result<Box<dyn Sampler>> {
        unimplemented!("being written")
    }
}
