//! From prompts to pictures, in one process.

mod picture;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::Tensor;

use crate::model::BaseModel;
use crate::samplers::{BadSteps, SamplerKind};
use crate::tokenizer::Prompt;
use crate::unet::Context;

pub use picture::{Picture, step};

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

impl Start {
    fn seed(&self) -> u64 {
        match self {
            Self::Seed(seed) | Self::Latents(_, seed) => *seed,
        }
    }
}

/// How to draw.
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
    /// The sampler does not run in so few or so many steps.
    #[error(transparent)]
    Steps(#[from] BadSteps),
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

/// Draws `shots`, all in one batch and every distinct prompt encoded once. `learned` `(n, d)` holds the rows that the prompts'
/// slots name. `progress` is called after every step with the number of steps done and may stop the work. No graph is kept.
///
/// # Errors
/// See [`RenderError`].
pub fn render(
    model: &BaseModel,
    learned: Option<&Tensor>,
    shots: &[Shot],
    look: &Look,
    progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<RgbPixels>, RenderError> {
    picture::check(model, look)?;
    let learned = learned.map(Tensor::detach);
    let mut contexts: HashMap<Prompt, Arc<Context>> = HashMap::new();
    let mut read = |prompt: &Prompt| match contexts.get(prompt) {
        Some(context) => Ok(Arc::clone(context)),
        None => {
            let context = Arc::new(model.context(prompt, learned.as_ref())?);
            contexts.insert(prompt.clone(), Arc::clone(&context));
            Ok(context)
        }
    };
    let begun: Result<Vec<Picture>, RenderError> =
        shots.iter().map(|shot| Picture::begin(model, shot, look, &mut read)).collect();
    let mut pictures = begun?;
    let mut under_way: Vec<&mut Picture> = pictures.iter_mut().collect();
    let mut done = 0;
    while under_way.iter().any(|picture| !picture.is_done()) {
        step(model, &mut under_way)?;
        done += 1;
        if progress(done).is_break() {
            return Err(RenderError::Stopped { step: done, steps: look.steps });
        }
    }
    let pixels = |(shot, picture): (usize, &Picture)| picture.pixels(model)?.ok_or(RenderError::NotFinite { shot });
    pictures.iter().enumerate().map(pixels).collect()
}
