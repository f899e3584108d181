//! A whole base model from its directory.

use std::path::Path;

use candle_core::Device;

use crate::digest::ModelDigest;
use crate::error::LoadError;
use crate::schedule::NoiseSchedule;
use crate::text_encoder::TextEncoder;
use crate::tokenizer::Tokenizer;
use crate::unet::Unet;
use crate::vae::Vae;

/// A frozen Stable Diffusion 1.x or 2.x, read from a directory in the Hugging Face layout.
#[derive(Debug)]
pub struct BaseModel {
    /// Words to ids.
    pub tokenizer: Tokenizer,
    /// Ids to context.
    pub text: TextEncoder,
    /// Noisy latents to noise or velocity.
    pub unet: Unet,
    /// Pixels to latents and back.
    pub vae: Vae,
    /// The training schedule.
    pub schedule: NoiseSchedule,
    /// Its identity.
    pub digest: ModelDigest,
    /// The directory's name, for people.
    pub name: String,
    native_size: usize,
}

impl BaseModel {
    /// Loads and checks everything.
    ///
    /// # Errors
    /// Every missing, surplus or misshapen tensor and every missing or corrupt file is named.
    pub fn load(_dir: &Path, _device: &Device) -> Result<Self, LoadError> {
        unimplemented!("being written")
    }

    /// The side, in pixels, that the model was trained at.
    pub fn native_size(&self) -> usize {
        self.native_size
    }
}
