//! Between pixels and latents.

use candle_core::{Result, Tensor};

/// The frozen autoencoder (diffusers' `AutoencoderKL`).
#[derive(Debug)]
pub struct Vae {}

impl Vae {
    /// Pixels per latent along a side.
    pub fn factor(&self) -> usize {
        unimplemented!("being written")
    }

    /// Latents `(b, c, h/factor, w/factor)` of pixels `(b, 3, h, w)` in [-1, 1]: posterior mean × scaling factor.
    ///
    /// # Errors
    /// Sides that are no multiple of the factor.
    pub fn encode(&self, _pixels: &Tensor) -> Result<Tensor> {
        unimplemented!("being written")
    }

    /// Pixels `(b, 3, h, w)`, about in [-1, 1] and not clamped, of scaled latents.
    ///
    /// # Errors
    /// Another number of channels than the model's.
    pub fn decode(&self, _latents: &Tensor) -> Result<Tensor> {
        unimplemented!("being written")
    }
}
