//! From prompts to pictures, in one process.

use std::collections::HashMap;
use std::ops::ControlFlow;

use candle_core::{Device, Result as TensorResult, Tensor};

use crate::model::BaseModel;
use crate::noise::{NoiseKey, Purpose};
use crate::samplers::{BadSteps, Sampler, SamplerKind};
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

impl Start {
    fn seed(&self) -> u64 {
        match self {
            Self::Seed(seed) | Self::Latents(_, seed) => *seed,
        }
    }
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

/// Draws `shots`, all in one batch. `learned` `(n, d)` holds the rows that the prompts' slots name. `progress` is called
/// after every step with the number of steps done and may stop the work. No graph is kept.
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
    check(model, look)?;
    if shots.is_empty() {
        return Ok(Vec::new());
    }
    let mut sampler = look.sampler.build(&model.schedule, look.steps)?;
    let guide = Guide::new(model, learned.map(Tensor::detach).as_ref(), shots, look.guidance)?;
    let mut latents = (start(model, shots, look)? * sampler.init_noise_sigma())?;
    let timesteps = sampler.timesteps().to_vec();
    for (index, timestep) in timesteps.iter().enumerate() {
        let input = sampler.scale_model_input(&latents, index)?;
        let output = guide.predict(model, &input, *timestep)?;
        let noise = fresh_noise(sampler.as_ref(), shots, index, &latents)?;
        latents = sampler.step(&output, index, &latents, noise.as_ref())?;
        if progress(index + 1).is_break() {
            return Err(RenderError::Stopped { step: index + 1, steps: timesteps.len() });
        }
    }
    pictures(&model.vae.decode(&latents)?)
}

fn check(model: &BaseModel, look: &Look) -> Result<(), RenderError> {
    let factor = model.vae.factor();
    let refuse = |what: String, accepted: String| Err(RenderError::Look { what, accepted });
    for (name, side) in [("width", look.width), ("height", look.height)] {
        if side == 0 || side % factor != 0 {
            return refuse(format!("{name} {side}"), format!("multiples of {factor} pixels"));
        }
    }
    if !look.guidance.is_finite() || look.guidance < 1.0 {
        return refuse(format!("guidance {}", look.guidance), "1 (none) and above".to_owned());
    }
    Ok(())
}

/// Unit noise `(b, c, h, w)`.
fn start(model: &BaseModel, shots: &[Shot], look: &Look) -> Result<Tensor, RenderError> {
    let factor = model.vae.factor();
    let shape = (model.vae.channels(), look.height / factor, look.width / factor);
    let one = |shot: &Shot| match &shot.noise {
        Start::Seed(seed) => {
            Ok(NoiseKey { seed: *seed, purpose: Purpose::Latents, step: 0, sample: 0 }.normal(shape, &model.device)?)
        }
        Start::Latents(given, _) if given.dims() == [shape.0, shape.1, shape.2] => Ok(given.detach()),
        Start::Latents(given, _) => Err(RenderError::Look {
            what: format!("latents of shape {:?}", given.dims()),
            accepted: format!("{shape:?} for {} × {} pixels", look.width, look.height),
        }),
    };
    let all: Result<Vec<Tensor>, RenderError> = shots.iter().map(one).collect();
    Ok(Tensor::stack(&all?, 0)?)
}

/// Noise of one step, by picture; none for samplers that want none.
fn fresh_noise(sampler: &dyn Sampler, shots: &[Shot], index: usize, like: &Tensor) -> TensorResult<Option<Tensor>> {
    if !sampler.wants_noise() {
        return Ok(None);
    }
    let (_, c, h, w) = like.dims4()?;
    let key =
        |shot: &Shot| NoiseKey { seed: shot.noise.seed(), purpose: Purpose::Ancestral, step: index as u64, sample: 0 };
    let all: TensorResult<Vec<Tensor>> = shots.iter().map(|shot| key(shot).normal((c, h, w), like.device())).collect();
    Tensor::stack(&all?, 0).map(Some)
}

/// Classifier-free guidance over the contexts of a batch.
struct Guide {
    /// `(b, 77, d)`, or `(2b, 77, d)` with the negative prompts' first.
    context: Tensor,
    guidance: f64,
}

impl Guide {
    /// Encodes every distinct prompt once.
    fn new(model: &BaseModel, learned: Option<&Tensor>, shots: &[Shot], guidance: f64) -> TensorResult<Self> {
        let negatives = shots.iter().map(|shot| &shot.negative).filter(|_| guidance > 1.0);
        let (mut places, mut distinct, mut picks) = (HashMap::new(), Vec::new(), Vec::new());
        for prompt in negatives.chain(shots.iter().map(|shot| &shot.prompt)) {
            let place = *places.entry(prompt).or_insert(distinct.len());
            if place == distinct.len() {
                distinct.push(prompt.clone());
            }
            picks.push(place as u32);
        }
        let contexts = model.text.forward(&distinct, learned)?;
        Ok(Self { context: contexts.index_select(&Tensor::new(picks, &Device::Cpu)?, 0)?, guidance })
    }

    fn predict(&self, model: &BaseModel, latents: &Tensor, timestep: f32) -> TensorResult<Tensor> {
        if self.guidance <= 1.0 {
            return model.unet.forward_at(latents, &vec![timestep; latents.dim(0)?], &self.context);
        }
        let both = Tensor::cat(&[latents, latents], 0)?;
        let both = model.unet.forward_at(&both, &vec![timestep; both.dim(0)?], &self.context)?;
        let halves = both.chunk(2, 0)?;
        let (free, guided) = (&halves[0], &halves[1]);
        free + ((guided - free)? * self.guidance)?
    }
}

/// To 8 bits, as diffusers rounds.
fn pictures(pixels: &Tensor) -> Result<Vec<RgbPixels>, RenderError> {
    let (b, _, height, width) = pixels.dims4()?;
    let rows = pixels.permute((0, 2, 3, 1))?.reshape((b, height * width * 3))?.to_vec2::<f32>()?;
    let byte = |x: f32| ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    let one = |(shot, row): (usize, Vec<f32>)| match row.iter().all(|x| x.is_finite()) {
        true => Ok(RgbPixels { width, height, bytes: row.into_iter().map(byte).collect() }),
        false => Err(RenderError::NotFinite { shot }),
    };
    rows.into_iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_rounded_and_clamped_and_nan_is_an_error() {
        let values = [-1.0f32, 1.0, 0.0, -9.0, 9.0, 0.5];
        let pixels = Tensor::new(&values, &Device::Cpu).unwrap().reshape((1, 3, 1, 2)).unwrap();
        let picture = &pictures(&pixels).unwrap()[0];
        assert_eq!((picture.width, picture.height), (2, 1));
        assert_eq!(picture.bytes, [0, 128, 255, 255, 0, 191]); // channels last
        let broken = (pixels * f64::NAN).unwrap();
        assert!(matches!(pictures(&broken), Err(RenderError::NotFinite { shot: 0 })));
    }
}
