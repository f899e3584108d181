//! The DDPM training schedule (Ho et al. 2020; v-prediction: Salimans & Ho 2022), from diffusers' `scheduler_config.json`.

use std::path::Path;

use candle_core::{Result, Tensor, bail};
use serde_json::{Map, Value};

use crate::error::LoadError;

/// What the UNet predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// The velocity `√ᾱ·noise − √(1−ᾱ)·clean`.
    Velocity,
}

/// How a sampler spreads its timesteps (table 2 of "Common diffusion noise schedules and sample steps are flawed").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// Multiples of a whole stride, from `steps_offset`.
    Leading,
    /// Back from the last timestep.
    Trailing,
    /// From the last timestep to the first.
    Linspace,
}

/// Noise levels per timestep, and what the UNet predicts.
#[derive(Debug, Clone)]
pub struct NoiseSchedule {
    /// ᾱ of every timestep: the share of the clean latents in the noisy ones' variance.
    alphas_cumprod: Vec<f64>,
    prediction: Prediction,
    pub(crate) spacing: Option<Spacing>,
    pub(crate) steps_offset: usize,
    pub(crate) set_alpha_to_one: bool,
}

/// Keys that change the mathematics, with the JSON values under which they do not. `null` is accepted for all.
/// `clip_sample` is not among them: diffusers' Stable Diffusion pipeline switches it off, whatever the file says.
const FIXED: &[(&str, &[&str])] = &[
    (
        "_class_name",
        &[
            "\"DDIMScheduler\"",
            "\"DDPMScheduler\"",
            "\"DEISMultistepScheduler\"",
            "\"DPMSolverMultistepScheduler\"",
            "\"DPMSolverSinglestepScheduler\"",
            "\"EulerAncestralDiscreteScheduler\"",
            "\"EulerDiscreteScheduler\"",
            "\"HeunDiscreteScheduler\"",
            "\"LMSDiscreteScheduler\"",
            "\"PNDMScheduler\"",
            "\"UniPCMultistepScheduler\"",
        ],
    ),
    ("trained_betas", &[]),
    ("thresholding", &["false"]),
    ("rescale_betas_zero_snr", &["false"]),
    ("use_karras_sigmas", &["false"]),
    ("use_exponential_sigmas", &["false"]),
    ("use_beta_sigmas", &["false"]),
    ("use_flow_sigmas", &["false"]),
    ("solver_order", &["2"]),
    ("solver_type", &["\"bh2\"", "\"midpoint\"", "\"heun\"", "\"logrho\""]),
    ("predict_x0", &["true"]),
    ("lower_order_final", &["true"]),
    ("final_sigmas_type", &["\"zero\""]),
    ("disable_corrector", &["[]"]),
];

const MAX_TRAIN_TIMESTEPS: u64 = 100_000;

impl NoiseSchedule {
    /// Reads `scheduler_config.json`. A key that is not there has diffusers' default.
    ///
    /// # Errors
    /// Names the file, and the key and value that are not supported.
    pub fn load(path: &Path) -> std::result::Result<Self, LoadError> {
        let io = |source| LoadError::Io { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(io)?;
        let keys = serde_json::from_str(&text).map_err(|source| LoadError::Config { path: path.to_owned(), source })?;
        Keys { path, keys }.schedule()
    }

    /// How many timesteps the model was trained on.
    pub fn train_timesteps(&self) -> u32 {
        self.alphas_cumprod.len() as u32 // at most MAX_TRAIN_TIMESTEPS
    }

    /// What the UNet predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// Noisy latents `(b, c, h, w)` at one timestep a sample: `√ᾱ·clean + √(1−ᾱ)·noise`.
    ///
    /// # Errors
    /// Shapes that do not fit, or a timestep that the schedule does not have.
    pub fn add_noise(&self, clean: &Tensor, noise: &Tensor, timesteps: &[u32]) -> Result<Tensor> {
        let (signal, level) = self.levels(clean, timesteps)?;
        clean.broadcast_mul(&signal)? + noise.broadcast_mul(&level)?
    }

    /// What the UNet should predict, `(b, c, h, w)`: the noise, or the velocity.
    ///
    /// # Errors
    /// Shapes that do not fit, or a timestep that the schedule does not have.
    pub fn target(&self, clean: &Tensor, noise: &Tensor, timesteps: &[u32]) -> Result<Tensor> {
        match self.prediction {
            Prediction::Epsilon => Ok(noise.clone()),
            Prediction::Velocity => self.velocity(clean, noise, timesteps),
        }
    }

    /// The velocity `√ᾱ·noise − √(1−ᾱ)·clean`, `(b, c, h, w)`, whatever the UNet predicts.
    ///
    /// # Errors
    /// Shapes that do not fit, or a timestep that the schedule does not have.
    pub fn velocity(&self, clean: &Tensor, noise: &Tensor, timesteps: &[u32]) -> Result<Tensor> {
        let (signal, level) = self.levels(clean, timesteps)?;
        noise.broadcast_mul(&signal)? - clean.broadcast_mul(&level)?
    }

    /// ᾱ of every timestep.
    pub(crate) fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// `√ᾱ` and `√(1−ᾱ)` of each sample, shaped to broadcast over `like`.
    fn levels(&self, like: &Tensor, timesteps: &[u32]) -> Result<(Tensor, Tensor)> {
        if like.dims().first() != Some(&timesteps.len()) {
            bail!("{} timesteps for a batch of shape {:?}; expected one a sample", timesteps.len(), like.shape());
        }
        if let Some(t) = timesteps.iter().find(|&&t| t >= self.train_timesteps()) {
            bail!("timestep {t} is past the schedule's {}", self.train_timesteps());
        }
        let mut shape = vec![1; like.rank()];
        shape[0] = timesteps.len();
        let column = |level: fn(f64) -> f64| {
            let values: Vec<f64> = timesteps.iter().map(|&t| level(self.alphas_cumprod[t as usize])).collect();
            Tensor::from_vec(values, shape.as_slice(), like.device())?.to_dtype(like.dtype())
        };
        Ok((column(f64::sqrt)?, column(|alpha| (1.0 - alpha).sqrt())?))
    }
}

/// The file's keys, and the file's name for errors.
struct Keys<'a> {
    path: &'a Path,
    keys: Map<String, Value>,
}

impl Keys<'_> {
    fn schedule(&self) -> std::result::Result<NoiseSchedule, LoadError> {
        for (key, accepted) in FIXED {
            let value = self.get(key).map_or("null".to_owned(), Value::to_string);
            if value != "null" && !accepted.contains(&value.as_str()) {
                return Err(
                    self.unsupported(key, &accepted.iter().chain(&["null"]).copied().collect::<Vec<_>>().join(", "))
                );
            }
        }
        let velocity = self.one_of("prediction_type", &[("epsilon", false), ("v_prediction", true)])?;
        let spacings =
            [("leading", Spacing::Leading), ("trailing", Spacing::Trailing), ("linspace", Spacing::Linspace)];
        let offset = self.number("steps_offset", 0.0, 0.0..=1000.0)?;
        Ok(NoiseSchedule {
            alphas_cumprod: self.alphas_cumprod()?,
            prediction: if velocity == Some(true) { Prediction::Velocity } else { Prediction::Epsilon },
            spacing: self.one_of("timestep_spacing", &spacings)?,
            steps_offset: offset as usize,
            set_alpha_to_one: self.flag("set_alpha_to_one", true)?,
        })
    }

    /// ᾱ as diffusers builds it, but in f64: the running product of 1 − β.
    fn alphas_cumprod(&self) -> std::result::Result<Vec<f64>, LoadError> {
        let count = match self.get("num_train_timesteps") {
            None => 1000,
            Some(value) => value
                .as_u64()
                .filter(|n| (2..=MAX_TRAIN_TIMESTEPS).contains(n))
                .ok_or_else(|| self.unsupported("num_train_timesteps", &format!("2 to {MAX_TRAIN_TIMESTEPS}")))?,
        };
        let start = self.number("beta_start", 0.0001, 0.0..=0.999)?;
        let end = self.number("beta_end", 0.02, 0.0..=0.999)?;
        let scaled = self.one_of("beta_schedule", &[("linear", false), ("scaled_linear", true)])?.unwrap_or(false);
        let (from, to) = if scaled { (start.sqrt(), end.sqrt()) } else { (start, end) };
        let beta = |t: u64| {
            let line = from + (to - from) * t as f64 / (count - 1) as f64;
            if scaled { line * line } else { line }
        };
        let product = |product: &mut f64, t| {
            *product *= 1.0 - beta(t);
            Some(*product)
        };
        Ok((0..count).scan(1.0, product).collect())
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    fn one_of<T: Copy>(&self, key: &str, accepted: &[(&str, T)]) -> std::result::Result<Option<T>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let found = accepted.iter().find(|(name, _)| value.as_str() == Some(name)).map(|(_, meaning)| *meaning);
        let names = || accepted.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        found.map(Some).ok_or_else(|| self.unsupported(key, &names()))
    }

    fn number(
        &self,
        key: &str,
        default: f64,
        range: std::ops::RangeInclusive<f64>,
    ) -> std::result::Result<f64, LoadError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let accepted = || format!("{} to {}", range.start(), range.end());
        value.as_f64().filter(|v| range.contains(v)).ok_or_else(|| self.unsupported(key, &accepted()))
    }

    fn flag(&self, key: &str, default: bool) -> std::result::Result<bool, LoadError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.unsupported(key, "true, false"))
    }

    fn unsupported(&self, key: &str, accepted: &str) -> LoadError {
        let value = self.get(key).map_or("null".to_owned(), Value::to_string);
        LoadError::Unsupported { path: self.path.to_owned(), key: key.to_owned(), value, accepted: accepted.to_owned() }
    }
}

#[cfg(test)]
mod tests;
