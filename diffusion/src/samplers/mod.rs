//! From noise to latents. Each sampler gives, step by step, what diffusers' scheduler of that name gives when it is built with
//! `from_config` from the same `scheduler_config.json`.

mod ddim;
mod euler_ancestral;
#[cfg(test)]
mod tests;
mod unipc;

use std::fmt;
use std::str::FromStr;

use candle_core::{Result, Tensor};

use crate::schedule::{NoiseSchedule, Prediction};
use ddim::Ddim;
use euler_ancestral::EulerAncestral;
use unipc::UniPc;

/// Which sampler renders. Written `ddim`, `euler_ancestral` or `unipc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SamplerKind {
    /// DDIM without noise (η = 0).
    Ddim,
    /// Euler ancestral: fresh noise each step.
    EulerAncestral,
    /// UniPC, a fast multistep method.
    UniPc,
}

/// No sampler has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown sampler {0:?}; accepted: ddim, euler_ancestral, unipc")]
pub struct UnknownSampler(String);

/// No sampler runs in so few or so many steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot sample in {steps} steps; accepted: 1 to {limit}, fewer than the timesteps that the model was trained on"
)]
pub struct BadSteps {
    /// Steps asked for.
    pub steps: usize,
    /// The most that the schedule gives.
    pub limit: usize,
}

/// One run of a sampler over all its timesteps, in order. Latents are `(b, c, h, w)`, f32.
pub trait Sampler: Send {
    /// The timesteps in the order of the run. Euler's fall between the trained ones when the spacing is linspace.
    fn timesteps(&self) -> &[f32];

    /// Standard deviation of the initial latents: what unit noise is multiplied by. 1 where the process preserves variance.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    /// What the UNet is given in place of `sample` at step `index`: the sample itself where the process preserves variance.
    ///
    /// # Errors
    /// An index past the end.
    fn scale_model_input(&self, sample: &Tensor, _index: usize) -> Result<Tensor> {
        Ok(sample.clone())
    }

    /// True if [`Self::step`] wants noise.
    fn wants_noise(&self) -> bool {
        false
    }

    /// The sample after step `index`, from the UNet's `output` at that step. `noise` is standard normal.
    ///
    /// # Errors
    /// An index past the end or out of order, noise that is missing, or shapes that do not fit.
    fn step(&mut self, output: &Tensor, index: usize, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor>;
}

impl SamplerKind {
    /// A sampler for `steps` steps.
    ///
    /// # Errors
    /// `steps` that the schedule cannot give.
    pub fn build(self, schedule: &NoiseSchedule, steps: usize) -> std::result::Result<Box<dyn Sampler>, BadSteps> {
        let limit = schedule.train_timesteps() as usize - 1;
        if !(1..=limit).contains(&steps) {
            return Err(BadSteps { steps, limit });
        }
        Ok(match self {
            Self::Ddim => Box::new(Ddim::new(schedule, steps)),
            Self::EulerAncestral => Box::new(EulerAncestral::new(schedule, steps)),
            Self::UniPc => Box::new(UniPc::new(schedule, steps)),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::EulerAncestral => "euler_ancestral",
            Self::UniPc => "unipc",
        }
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SamplerKind {
    type Err = UnknownSampler;

    fn from_str(text: &str) -> std::result::Result<Self, UnknownSampler> {
        let all = [Self::Ddim, Self::EulerAncestral, Self::UniPc];
        all.into_iter().find(|kind| kind.name() == text).ok_or_else(|| UnknownSampler(text.to_owned()))
    }
}

impl TryFrom<String> for SamplerKind {
    type Error = UnknownSampler;

    fn try_from(text: String) -> std::result::Result<Self, UnknownSampler> {
        text.parse()
    }
}

impl From<SamplerKind> for String {
    fn from(kind: SamplerKind) -> Self {
        kind.name().to_owned()
    }
}

/// A noise level of the variance-preserving process: `sample = alpha·clean + sigma·noise`, `alpha² + sigma² = 1`.
#[derive(Clone, Copy, Debug)]
struct Level {
    alpha: f64,
    sigma: f64,
}

impl Level {
    fn of_alpha_cumprod(alpha_cumprod: f64) -> Self {
        Self { alpha: alpha_cumprod.sqrt(), sigma: (1.0 - alpha_cumprod).sqrt() }
    }

    /// The level whose noise-to-signal ratio σ/α is `ratio`.
    fn of_ratio(ratio: f64) -> Self {
        let alpha = 1.0 / (ratio * ratio + 1.0).sqrt();
        Self { alpha, sigma: ratio * alpha }
    }

    /// The clean latents that the UNet's `output` on `sample` implies.
    fn clean(self, prediction: Prediction, output: &Tensor, sample: &Tensor) -> Result<Tensor> {
        match prediction {
            Prediction::Epsilon => (sample - (output * self.sigma)?)? / self.alpha,
            Prediction::Velocity => (sample * self.alpha)? - (output * self.sigma)?,
        }
    }

    /// The noise that the UNet's `output` on `sample` implies.
    fn noise(self, prediction: Prediction, output: &Tensor, sample: &Tensor) -> Result<Tensor> {
        match prediction {
            Prediction::Epsilon => Ok(output.clone()),
            Prediction::Velocity => (output * self.alpha)? + (sample * self.sigma)?,
        }
    }
}

/// The noise-to-signal ratio σ/α at a timestep, linear between the trained ones.
fn ratio_at(schedule: &NoiseSchedule, timestep: f64) -> f64 {
    let ratio = |t: usize| {
        let alpha_cumprod = schedule.alphas_cumprod()[t.min(schedule.alphas_cumprod().len() - 1)];
        ((1.0 - alpha_cumprod) / alpha_cumprod).sqrt()
    };
    let below = timestep.floor();
    let (low, high) = (ratio(below as usize), ratio(below as usize + 1));
    low + (high - low) * (timestep - below)
}

/// `steps` descending multiples of `stride`, plus the schedule's offset or as much of it as the trained timesteps leave.
fn leading(schedule: &NoiseSchedule, steps: usize, stride: usize) -> Vec<f64> {
    let room = schedule.train_timesteps() as usize - 1 - (steps - 1) * stride;
    let offset = schedule.steps_offset.min(room);
    (0..steps).rev().map(|i| (i * stride + offset) as f64).collect()
}

/// `steps` whole timesteps back from the last.
fn trailing(schedule: &NoiseSchedule, steps: usize) -> Vec<f64> {
    let count = f64::from(schedule.train_timesteps());
    (0..steps).map(|i| (count - i as f64 * count / steps as f64).round_ties_even() - 1.0).collect()
}

/// `points` evenly spaced timesteps from the last down to 0.
fn linspace(schedule: &NoiseSchedule, points: usize) -> Vec<f64> {
    let last = f64::from(schedule.train_timesteps() - 1);
    let stride = if points > 1 { last / (points - 1) as f64 } else { 0.0 };
    (0..points).rev().map(|i| i as f64 * stride).collect()
}

fn to_f32(timesteps: &[f64]) -> Vec<f32> {
    timesteps.iter().map(|&t| t as f32).collect()
}
