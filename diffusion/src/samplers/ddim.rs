//! DDIM with η = 0 (Song et al. 2021, equation 12): each step keeps the implied clean latents and noise and lowers the level.

use candle_core::{Result, Tensor, bail};

use super::{Level, Sampler, leading, linspace, to_f32, trailing};
use crate::schedule::{NoiseSchedule, Prediction, Spacing};

pub(super) struct Ddim {
    prediction: Prediction,
    timesteps: Vec<f32>,
    /// Per step, the level before and after it.
    levels: Vec<(Level, Level)>,
}

impl Ddim {
    pub(super) fn new(schedule: &NoiseSchedule, steps: usize) -> Self {
        let alphas = schedule.alphas_cumprod();
        let stride = alphas.len() / steps;
        let timesteps = match schedule.spacing.unwrap_or(Spacing::Leading) {
            Spacing::Leading => leading(schedule, steps, stride),
            Spacing::Trailing => trailing(schedule, steps),
            Spacing::Linspace => linspace(schedule, steps).into_iter().map(f64::round_ties_even).collect(),
        };
        // A step always goes down by the stride, also where that is not the next timestep: so diffusers does.
        let after = |t: usize| match t.checked_sub(stride) {
            Some(t) => Level::of_alpha_cumprod(alphas[t]),
            None => Level::of_alpha_cumprod(if schedule.set_alpha_to_one { 1.0 } else { alphas[0] }),
        };
        let levels = timesteps.iter().map(|&t| (Level::of_alpha_cumprod(alphas[t as usize]), after(t as usize)));
        Self { prediction: schedule.prediction(), timesteps: to_f32(&timesteps), levels: levels.collect() }
    }
}

impl Sampler for Ddim {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn step(&mut self, output: &Tensor, index: usize, sample: &Tensor, _noise: Option<&Tensor>) -> Result<Tensor> {
        let Some((before, after)) = self.levels.get(index) else { bail!("step {index} of {}", self.levels.len()) };
        let clean = before.clean(self.prediction, output, sample)?;
        let noise = before.noise(self.prediction, output, sample)?;
        (clean * after.alpha)? + (noise * after.sigma)?
    }
}
