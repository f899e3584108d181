//! The frozen denoiser.

use candle_core::{Result, Tensor};

/// The frozen UNet (diffusers' `UNet2DConditionModel`).
#[derive(Debug)]
pub struct Unet {}

impl Unet {
    /// Predicts noise or velocity `(b, c, h, w)` from noisy latents of the same shape, one timestep a sample and the
    /// context `(b, 77, d)`; differentiable with respect to the context.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, _latents: &Tensor, _timesteps: &[u32], _context: &Tensor) -> Result<Tensor> {
        unimplemented!("being written")
    }
}
