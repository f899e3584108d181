//! From prompts to pictures, in one process.

use std::ops::ControlFlow;

use candle_core::Tensor;

use crate::model::BaseModel;
use crate::samplers::SamplerKind;
use crate::tokenizer::Prompt;

/// One picture to draw.
#[derive(Debug, Clone)]
pub struct Shot {
    /// What to draw.
    pub prompt: Prompt,
    /// What to steer away from.
    pub negative: Prompt,
    /// Where the picture's noise starts.
    pub noise: Start,
}

/// Where a picture's noise comes from.
#[derive(Debug, Clone)]
pub enum Start {
    /// Drawn from this seed.
    Seed(u64),
    /// Given latents `(c, h, w)` of unit variance; ancestral noise is drawn from the seed.
    Latents(Tensor, u64),
}

/// How to draw, common to a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Look {
    /// The sampler.
    pub sampler: SamplerKind,
    /// Its steps.
    pub steps: usize,
    /// Classifier-free guidance; 1 leaves the negative prompt out.
    pub guidance: f64,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
}

/// A picture: 8-bit RGB, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbPixels {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// `3 * width * height` bytes.
    pub bytes: Vec<u8>,
}

/// Why there are no pictures.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The caller's `progress` said stop.
    #[error("rendering was stopped after step {step} of {steps}")]
    Stopped {
        /// Steps done.
        step: usize,
        /// Steps asked for.
        steps: usize,
    },
    /// The look cannot be drawn.
    #[error("cannot draw with {what}; accepted: {accepted}")]
    Look {
        /// The setting and its value.
        what: String,
        /// What would be accepted.
        accepted: String,
    },
    /// The picture came out as NaN or infinity.
    #[error("the picture of shot {shot} is not finite; the embedding or the model is broken")]
    NotFinite {
        /// Its index.
        shot: usize,
    },
    /// Shapes that do not fit.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Draws `shots`, all in one batch. `learned` `(n, d)` holds the rows that the prompts' slots name. `progress` is called
/// after every step with the number of steps done and may stop the work.
///
/// # Errors
/// See [`RenderError`].
pub fn render(
    _model: &BaseModel,
    _learned: Option<&Tensor>,
    _shots: &[Shot],
    _look: &Look,
    _progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<RgbPixels>, RenderError> {
    unimplemented!("being written")
}
