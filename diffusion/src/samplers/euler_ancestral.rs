//! Euler ancestral (k-diffusion's `sample_euler_ancestral`): an Euler step to below the next level, then fresh noise up to it.
//! Latents are in the variance-exploding scale: `sample = clean + ratio·noise`.

use candle_core::{Result, Tensor, bail};

use super::{Sampler, leading, linspace, ratio_at, to_f32, trailing};
use crate::schedule::{NoiseSchedule, Prediction, Spacing};

pub(super) struct EulerAncestral {
    prediction: Prediction,
    timesteps: Vec<f32>,
    /// Noise-to-signal ratio of every step, and 0 at the end.
    ratios: Vec<f64>,
    init_noise_sigma: f64,
}

impl EulerAncestral {
    pub(super) fn new(schedule: &NoiseSchedule, steps: usize) -> Self {
        let spacing = schedule.spacing.unwrap_or(Spacing::Linspace);
        let timesteps = match spacing {
            Spacing::Leading => leading(schedule, steps, schedule.train_timesteps() as usize / steps),
            Spacing::Trailing => trailing(schedule, steps),
            Spacing::Linspace => linspace(schedule, steps),
        };
        let mut ratios: Vec<f64> = timesteps.iter().map(|&t| ratio_at(schedule, t)).collect();
        let first = ratios[0];
        ratios.push(0.0);
        let init_noise_sigma = if spacing == Spacing::Leading { first.hypot(1.0) } else { first };
        Self { prediction: schedule.prediction(), timesteps: to_f32(&timesteps), ratios, init_noise_sigma }
    }

    /// The ratios before and after step `index`.
    fn ratios(&self, index: usize) -> Result<(f64, f64)> {
        match self.ratios[index.min(self.timesteps.len())..] {
            [from, to, ..] => Ok((from, to)),
            _ => bail!("step {index} of {}", self.timesteps.len()),
        }
    }
}

impl Sampler for EulerAncestral {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn init_noise_sigma(&self) -> f64 {
        self.init_noise_sigma
    }

    fn scale_model_input(&self, sample: &Tensor, index: usize) -> Result<Tensor> {
        sample / self.ratios(index)?.0.hypot(1.0)
    }

    fn wants_noise(&self) -> bool {
        true
    }

    fn step(&mut self, output: &Tensor, index: usize, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let (from, to) = self.ratios(index)?;
        let Some(noise) = noise else { bail!("euler_ancestral wants noise at step {index}") };
        let up = (to * to * (from * from - to * to) / (from * from)).sqrt();
        let down = (to * to - up * up).sqrt();

        // dx/dratio, which is the noise that the output implies
        let slope = match self.prediction {
            Prediction::Epsilon => output.clone(),
            Prediction::Velocity => ((output / from.hypot(1.0))? + (sample * (from / (from * from + 1.0)))?)?,
        };
        ((sample + (slope * (down - from))?)? + (noise * up)?)?.to_dtype(sample.dtype())
    }
}
