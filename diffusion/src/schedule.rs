//! The DDPM training schedule.

use std::path::Path;

use candle_core::{Result, Tensor};

use crate::error::LoadError;

/// Noise levels per timestep, and what the UNet predicts.
#[derive(Debug, Clone)]
pub struct NoiseSchedule {}

impl NoiseSchedule {
    /// Reads `scheduler_config.json`.
    ///
    /// # Errors
    /// Names the file, and the key and value that are not supported.
    pub fn load(_path: &Path) -> std::result::Result<Self, LoadError> {
        unimplemented!("being written")
    }

    /// How many timesteps the model was trained on.
    pub fn train_timesteps(&self) -> u32 {
        unimplemented!("being written")
    }

    /// Noisy latents `(b, c, h, w)` at one timestep a sample.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn add_noise(&self, _clean: &Tensor, _noise: &Tensor, _timesteps: &[u32]) -> Result<Tensor> {
        unimplemented!("being written")
    }

    /// What the UNet should predict: the noise, or the velocity.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn target(&self, _clean: &Tensor, _noise: &Tensor, _timesteps: &[u32]) -> Result<Tensor> {
        unimplemented!("being written")
    }
}
