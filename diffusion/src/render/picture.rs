//! A picture under way, and the step that many of them take together.

use std::sync::Arc;

use candle_core::{Result as TensorResult, Tensor, bail};

use super::{Look, RenderError, RgbPixels, Shot, Start};
use crate::model::BaseModel;
use crate::noise::{NoiseKey, Purpose};
use crate::samplers::Sampler;
use crate::tokenizer::Prompt;
use crate::unet::Context;

/// A picture between two of its denoising steps. It knows nothing of others: those that share a [`step`] may be of other
/// subjects and prompts, at other timesteps and under other samplers, and none of it shows in its pixels.
pub struct Picture {
    sampler: Box<dyn Sampler>,
    /// Steps done.
    done: usize,
    seed: u64,
    /// `(1, c, h, w)`.
    latents: Tensor,
    context: Arc<Context>,
    /// Under guidance: the negative prompt's context, and the scale.
    away: Option<(Arc<Context>, f64)>,
}

impl Picture {
    /// A picture before its first step. `read` gives a prompt's context ([`BaseModel::context`]); it is asked for the negative prompt's only
    /// where the look has guidance.
    ///
    /// # Errors
    /// A look that cannot be drawn, latents that do not fit it, and what `read` fails with.
    pub fn begin(
        model: &BaseModel,
        shot: &Shot,
        look: &Look,
        mut read: impl FnMut(&Prompt) -> TensorResult<Arc<Context>>,
    ) -> Result<Self, RenderError> {
        check(model, look)?;
        let sampler = look.sampler.build(&model.schedule, look.steps)?;
        let latents = (noise(model, &shot.noise, look)? * sampler.init_noise_sigma())?;
        let context = read(&shot.prompt)?;
        let guided = look.guidance > 1.0;
        let away = guided.then(|| Ok::<_, RenderError>((read(&shot.negative)?, look.guidance))).transpose()?;
        Ok(Self { sampler, done: 0, seed: shot.noise.seed(), latents, context, away })
    }

    /// Whether all its steps are done.
    pub fn is_done(&self) -> bool {
        self.done >= self.sampler.timesteps().len()
    }

    /// What it shows; none where a value is not finite, because the embedding or the model is broken.
    ///
    /// # Errors
    /// The device refuses a tensor.
    pub fn pixels(&self, model: &BaseModel) -> TensorResult<Option<RgbPixels>> {
        rgb(&model.vae.decode(&self.latents)?)
    }

    /// What it brings into a pass: the UNet's input, the timestep and the contexts, the negative prompt's first.
    fn input(&self) -> TensorResult<(Tensor, f32, Vec<&Context>)> {
        let Some(timestep) = self.sampler.timesteps().get(self.done).copied() else {
            bail!("the picture has had all its {} steps", self.done);
        };
        let contexts = self.away.iter().map(|(away, _)| &**away).chain([&*self.context]);
        Ok((self.sampler.scale_model_input(&self.latents, self.done)?, timestep, contexts.collect()))
    }

    /// Takes the step that `predicted` gives: what the UNet made of it under each of its contexts, each `(1, c, h, w)`.
    fn advance(&mut self, predicted: &[Tensor]) -> TensorResult<()> {
        let output = match (predicted, &self.away) {
            ([only], None) => only.clone(),
            ([free, guided], Some((_, scale))) => (free + ((guided - free)? * *scale)?)?,
            _ => bail!("{} predictions do not belong to this picture", predicted.len()),
        };
        let noise = match self.sampler.wants_noise() {
            true => Some(self.fresh_noise()?),
            false => None,
        };
        self.latents = self.sampler.step(&output, self.done, &self.latents, noise.as_ref())?;
        self.done += 1;
        Ok(())
    }

    fn fresh_noise(&self) -> TensorResult<Tensor> {
        let key = NoiseKey { seed: self.seed, purpose: Purpose::Ancestral, step: self.done as u64, sample: 0 };
        key.normal(self.latents.shape(), self.latents.device())
    }
}

/// One denoising step of every picture, in one pass through the UNet: under two contexts for a picture with guidance, one for another.
/// No graph is kept.
///
/// # Errors
/// Pictures of different sizes, or one that is done. The pictures are then of no further use.
pub fn step(model: &BaseModel, pictures: &mut [&mut Picture]) -> TensorResult<()> {
    if pictures.is_empty() {
        return Ok(());
    }
    let inputs = pictures.iter().map(|picture| picture.input()).collect::<TensorResult<Vec<_>>>()?;
    let latents: Vec<&Tensor> = inputs.iter().map(|(latents, ..)| latents).collect();
    let timesteps: Vec<f32> = inputs.iter().map(|(_, timestep, _)| *timestep).collect();
    let latents = Tensor::cat(&latents, 0)?;
    let contexts: Vec<Vec<&Context>> = inputs.into_iter().map(|(.., contexts)| contexts).collect();
    let output = model.unet.predict(&latents, &timesteps, &contexts)?;
    let mut predicted = (0..output.dim(0)?).map(|context| output.narrow(0, context, 1));
    for picture in pictures {
        let contexts = 1 + usize::from(picture.away.is_some());
        let own: Vec<Tensor> = predicted.by_ref().take(contexts).collect::<TensorResult<_>>()?;
        picture.advance(&own)?;
    }
    Ok(())
}

/// Refuses a look that the model cannot draw.
pub(super) fn check(model: &BaseModel, look: &Look) -> Result<(), RenderError> {
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

/// Unit noise `(1, c, h, w)`.
fn noise(model: &BaseModel, start: &Start, look: &Look) -> Result<Tensor, RenderError> {
    let factor = model.vae.factor();
    let shape = (model.vae.channels(), look.height / factor, look.width / factor);
    let noise = match start {
        Start::Seed(seed) => {
            NoiseKey { seed: *seed, purpose: Purpose::Latents, step: 0, sample: 0 }.normal(shape, &model.device)?
        }
        Start::Latents(given, _) if given.dims() == [shape.0, shape.1, shape.2] => given.detach(),
        Start::Latents(given, _) => {
            return Err(RenderError::Look {
                what: format!("latents of shape {:?}", given.dims()),
                accepted: format!("{shape:?} for {} × {} pixels", look.width, look.height),
            });
        }
    };
    Ok(noise.unsqueeze(0)?)
}

/// `(1, 3, h, w)` to 8 bits, as diffusers rounds; none where a value is not finite.
fn rgb(pixels: &Tensor) -> TensorResult<Option<RgbPixels>> {
    let (_, _, height, width) = pixels.dims4()?;
    let values = pixels.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1::<f32>()?;
    let byte = |x: f32| ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    let finite = values.iter().all(|x| x.is_finite());
    Ok(finite.then(|| RgbPixels { width, height, bytes: values.into_iter().map(byte).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SamplerKind;
    use crate::golden;
    use candle_core::Device;

    const LOOK: Look = Look { sampler: SamplerKind::Ddim, steps: 3, guidance: 3.0, width: 16, height: 12 };

    fn begin(model: &BaseModel, seed: u64, look: Look) -> Picture {
        let encode = |text| model.tokenizer.encode(text, None).unwrap();
        let shot = Shot { prompt: encode("a dog"), negative: encode("red"), noise: Start::Seed(seed) };
        Picture::begin(model, &shot, &look, |prompt| model.context(prompt, None).map(Arc::new)).unwrap()
    }

    fn bits(picture: &Picture) -> Vec<u32> {
        picture.latents.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn pictures_at_different_steps_of_different_samplers_share_a_pass_to_the_bits_they_have_alone() {
        let model = BaseModel::load(&golden::model("sd15-like"), &Device::Cpu).unwrap();
        let looks = [
            LOOK,
            Look { sampler: SamplerKind::EulerAncestral, steps: 4, guidance: 1.0, ..LOOK },
            Look { sampler: SamplerKind::UniPc, steps: 5, guidance: 7.5, ..LOOK },
        ];
        let start = || [0, 1, 2].map(|i| begin(&model, i as u64, looks[i]));
        let alone = start().map(|mut picture| {
            while !picture.is_done() {
                step(&model, &mut [&mut picture]).unwrap();
            }
            bits(&picture)
        });

        let mut pictures = start();
        step(&model, &mut [&mut pictures[2]]).unwrap(); // ahead of the others
        while pictures.iter().any(|picture| !picture.is_done()) {
            let mut under_way: Vec<&mut Picture> = pictures.iter_mut().filter(|picture| !picture.is_done()).collect();
            step(&model, &mut under_way).unwrap();
        }

        assert!(pictures.each_ref().map(bits) == alone);
    }

    #[test]
    fn a_pass_refuses_pictures_of_different_sizes_and_one_that_is_done() {
        let model = BaseModel::load(&golden::model("sd15-like"), &Device::Cpu).unwrap();
        let [mut small, mut large] = [begin(&model, 1, LOOK), begin(&model, 1, Look { width: 32, ..LOOK })];
        assert!(step(&model, &mut [&mut small, &mut large]).is_err());
        (0..3).for_each(|_| step(&model, &mut [&mut small]).unwrap());
        assert!(step(&model, &mut [&mut small]).unwrap_err().to_string().contains("has had all its 3 steps"));
        assert!(step(&model, &mut []).is_ok());
    }

    #[test]
    fn pixels_are_rounded_and_clamped_and_nan_is_no_picture() {
        let values = [-1.0f32, 1.0, 0.0, -9.0, 9.0, 0.5];
        let pixels = Tensor::new(&values, &Device::Cpu).unwrap().reshape((1, 3, 1, 2)).unwrap();
        let picture = rgb(&pixels).unwrap().unwrap();
        assert_eq!((picture.width, picture.height), (2, 1));
        assert_eq!(picture.bytes, [0, 128, 255, 255, 0, 191]); // channels last
        let broken = (pixels * f64::NAN).unwrap();
        assert_eq!(rgb(&broken).unwrap(), None);
    }
}
