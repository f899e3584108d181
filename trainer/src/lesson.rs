//! What a run learns from, fixed before its first step: sentences as prompts, latents, draws, the evaluation set.

use std::fmt;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use likeness_diffusion::{BaseModel, NoiseKey, Placeholder, Prompt, Purpose};
use likeness_proto::{Method, SUBJECT_SLOT, TextualInversion, TrainSpec};
use sha2::{Digest, Sha256};

use crate::{
    Latents, TrainError,
    draws::{Draws, Sample},
    optimizer::Optimizer,
    pass::{self, Ask, PASS_POSITIONS},
    templates,
};

/// Samples of the evaluation set.
const EVALUATIONS: usize = 32;
/// Its timesteps are spread evenly over these thousandths of the schedule.
const EVALUATION_SPAN: (f64, f64) = (0.02, 0.98);
/// Its noise is the same for every subject and seed, so that losses of different runs can be compared.
const EVALUATION_SEED: u64 = 0;
/// Relative size of what sets apart the second and further vectors at the start.
const APART: f64 = 0.01;

/// Who is learned.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its photos.
    pub latents: Latents,
    /// What it is before anything is learned: "person".
    pub init: String,
    /// The placeholder that stands for it in prompts.
    pub token: String,
}

/// What is measured of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Batch {
    /// The samples of a step.
    Step(u32),
    /// The evaluation set.
    Evaluation,
}

/// A subject made ready to be learned under a spec.
#[derive(Clone, Debug)]
pub struct Lesson {
    /// The same in all clones of a lesson, and in no other.
    identity: Arc<()>,
    model: Arc<BaseModel>,
    subject: Subject,
    spec: TrainSpec,
    draws: Draws,
    vectors: usize,
    /// Height and width of the latents.
    size: (usize, usize),
    /// The templates, then the captions there are.
    prompts: Vec<Prompt>,
    /// Of each photo: its caption's place in `prompts`.
    captions: Vec<Option<usize>>,
    /// A number of its own.
    turn: usize,
}

impl Lesson {
    /// Encodes every sentence and asserts that every vector stands in each.
    ///
    /// # Errors
    /// No photos; a sentence that cannot be encoded or lacks a vector.
    pub fn new(model: &Arc<BaseModel>, subject: &Subject, spec: &TrainSpec) -> Result<Self, TrainError> {
        let vectors = inversion(spec).vectors as usize;
        let placeholder = Placeholder { token: subject.token.clone(), vectors };
        let encode = |sentence: &str| encode(model, sentence, &placeholder);
        let templates = templates::sentences(spec.templates);
        let mut prompts = templates.iter().map(|s| encode(s)).collect::<Result<Vec<_>, _>>()?;
        let mut captions = Vec::new();
        for caption in &subject.latents.captions {
            captions.push(caption.is_some().then_some(prompts.len()));
            prompts.extend(caption.as_deref().map(encode).transpose()?);
        }
        let photos = subject.latents.count();
        if photos == 0 {
            return Err(TrainError::NoPhotos);
        }
        let draws = Draws {
            seed: spec.seed,
            photos,
            sentences: templates.len(),
            timesteps: model.schedule.train_timesteps(),
            batch: spec.batch_size as usize,
            flip: spec.flip,
        };
        let (_, _, height, width) = subject.latents.upright.dims4()?;
        let mut lesson = Self {
            identity: Arc::default(),
            model: Arc::clone(model),
            subject: subject.clone(),
            spec: spec.clone(),
            draws,
            vectors,
            size: (height, width),
            prompts,
            captions,
            turn: 0,
        };
        lesson.turn = lesson.fingerprint()[0].into();
        Ok(lesson)
    }

    /// How it is learned.
    #[must_use]
    pub fn spec(&self) -> &TrainSpec {
        &self.spec
    }

    /// What the spec says of the learned rows.
    #[must_use]
    pub fn inversion(&self) -> &TextualInversion {
        inversion(&self.spec)
    }

    /// The base model.
    #[must_use]
    pub fn model(&self) -> &Arc<BaseModel> {
        &self.model
    }

    /// Who is learned.
    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Whether this is a clone of `other`.
    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.identity, &other.identity)
    }

    /// A number of its own, the same in every process, so that not all subjects' first samples are the first rank's.
    pub(crate) fn turn(&self) -> usize {
        self.turn
    }

    /// Height and width of its latents.
    pub(crate) fn size(&self) -> (usize, usize) {
        self.size
    }

    /// Where its latents live.
    pub(crate) fn device(&self) -> &Device {
        self.subject.latents.upright.device()
    }

    /// Text that did not fit into a caption's 77 tokens, with the caption.
    pub fn cut(&self) -> impl Iterator<Item = (&str, &str)> {
        let captions = self.subject.latents.captions.iter().zip(&self.captions);
        captions.filter_map(|(text, place)| Some((text.as_deref()?, self.prompts[(*place)?].cut.as_deref()?)))
    }

    /// The optimiser before the first step. Every vector starts at the mean of the initial phrase's tokens; the second and further
    /// ones are moved off it by a seeded hundredth of its length, so that no two of them can stay the same.
    ///
    /// # Errors
    /// [`TrainError::InitEmpty`].
    pub fn start(&self) -> Result<Optimizer, TrainError> {
        let ids = self.model.tokenizer.phrase(&self.subject.init);
        if ids.is_empty() {
            return Err(TrainError::InitEmpty(self.subject.init.clone()));
        }
        let initializer = self.model.text.rows(&ids)?.mean(0)?; // (d)
        let size = initializer.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?;
        let mut rows = vec![initializer.clone()];
        for vector in 1..self.vectors {
            let key = NoiseKey { seed: self.draws.seed, purpose: Purpose::Start, step: 0, sample: vector as u64 };
            let off = key.normal(initializer.shape(), self.device())?;
            let unit = f64::from(size) / (initializer.elem_count() as f64).sqrt();
            rows.push((&initializer + off.affine(APART * unit, 0.0)?)?);
        }
        let rows: Vec<f32> = Tensor::cat(&rows, 0)?.to_vec1()?;
        let norm = self.model.text.vocabulary_norm();
        Ok(Optimizer::start(self.inversion().parameterization, &rows, &initializer.to_vec1::<f32>()?, norm))
    }

    /// Loss of step `step` and its gradient with respect to `rows` (row-major): means over the samples of the batch.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn gradient(&self, step: u32, rows: &[f32]) -> candle_core::Result<(f32, Vec<f32>)> {
        let asked = [self.ask(Batch::Step(step), rows.to_vec())];
        pass::gradients(&asked, PASS_POSITIONS).swap_remove(0) // one subject, one answer
    }

    /// Loss of `rows` (row-major) on the fixed evaluation set: the same photos, noise and timesteps every time, shown with
    /// their captions or the first template.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn evaluate(&self, rows: &[f32]) -> candle_core::Result<f32> {
        let asked = [self.ask(Batch::Evaluation, rows.to_vec())];
        pass::losses(&asked, PASS_POSITIONS).swap_remove(0) // one subject, one answer
    }

    /// All samples of `batch`, to be shown under `rows`.
    pub(crate) fn ask(&self, batch: Batch, rows: Vec<f32>) -> Ask<'_> {
        let samples: Vec<Sample> = match batch {
            Batch::Step(step) => (0..self.draws.batch).map(|sample| self.draws.sample(step, sample)).collect(),
            Batch::Evaluation => (0..EVALUATIONS).map(|index| self.evaluated(index)).collect(),
        };
        Ask { lesson: self, rows, batch, whole: samples.len(), samples }
    }

    fn evaluated(&self, index: usize) -> Sample {
        let (low, high) = EVALUATION_SPAN;
        let place = low + (high - low) * index as f64 / (EVALUATIONS - 1) as f64;
        let photos = self.draws.photos;
        Sample {
            photo: if photos > EVALUATIONS { index * photos / EVALUATIONS } else { index % photos },
            mirrored: false,
            timestep: (place * f64::from(self.draws.timesteps)) as u32,
            sentence: 0,
            noise: NoiseKey { seed: EVALUATION_SEED, purpose: Purpose::Evaluation, step: 0, sample: index as u64 },
        }
    }

    /// The prompt that a sample is shown with.
    pub(crate) fn prompt(&self, sample: &Sample) -> &Prompt {
        &self.prompts[self.captions[sample.photo].unwrap_or(sample.sentence)]
    }

    /// The photo that a sample shows, `(c, h, w)`, and its noise.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub(crate) fn picture(&self, sample: &Sample) -> candle_core::Result<(Tensor, Tensor)> {
        let clean = self.subject.latents.get(sample.photo, sample.mirrored)?;
        let noise = sample.noise.normal(clean.shape(), self.device())?;
        Ok((clean, noise))
    }

    /// Rows as the tensor `(vectors, width)`.
    pub(crate) fn tensor(&self, rows: &[f32]) -> candle_core::Result<Tensor> {
        Tensor::from_slice(rows, (self.vectors, rows.len() / self.vectors), self.device())
    }

    /// What is learned, as a digest: the spec with its defaults resolved, the photos, their captions, the initial phrase.
    #[must_use]
    pub fn digest(&self) -> String {
        hex::encode(self.fingerprint())
    }

    fn fingerprint(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let captions = self.subject.latents.captions.iter().flatten();
        digest.update(format!(
            "{:?}\n{:?}\n{:?}\n",
            Learning(&self.spec),
            self.subject.init,
            captions.collect::<Vec<_>>()
        ));
        digest.update(self.subject.latents.digest);
        digest.finalize().into()
    }
}

/// What of a spec shows in what is learned. Previews do not; so it reads as specs did before there were any, and their checkpoints
/// can be gone on from.
struct Learning<'a>(&'a TrainSpec);

impl fmt::Debug for Learning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TrainSpec { max_steps, batch_size, seed, resolution, flip, templates, .. } = self.0;
        let TrainSpec { evaluate_every, checkpoint_every, previews: _, method, .. } = self.0;
        f.debug_struct("TrainSpec")
            .field("max_steps", max_steps)
            .field("batch_size", batch_size)
            .field("seed", seed)
            .field("resolution", resolution)
            .field("flip", flip)
            .field("templates", templates)
            .field("evaluate_every", evaluate_every)
            .field("checkpoint_every", checkpoint_every)
            .field("method", method)
            .finish()
    }
}

fn inversion(spec: &TrainSpec) -> &TextualInversion {
    let Method::TextualInversion(inversion) = &spec.method;
    inversion
}

fn encode(model: &BaseModel, sentence: &str, placeholder: &Placeholder) -> Result<Prompt, TrainError> {
    let text = sentence.replace(SUBJECT_SLOT, &placeholder.token);
    let prompt = model
        .tokenizer
        .encode(&text, Some(placeholder))
        .map_err(|source| TrainError::Sentence { sentence: sentence.to_owned(), source })?;
    let stands = |vector: &usize| prompt.slots.iter().any(|slot| slot.vector == *vector);
    match (0..placeholder.vectors).find(|vector| !stands(vector)) {
        None => Ok(prompt),
        Some(missing) => Err(TrainError::VectorMissing {
            vector: missing + 1,
            vectors: placeholder.vectors,
            sentence: sentence.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use likeness_proto::{ModelFacts, v1};

    use super::*;

    #[test]
    fn a_spec_reads_as_before_there_were_previews() {
        let model = ModelFacts { native_size: 64, factor: 8 };
        let spec = |previews| TrainSpec::resolve(v1::TrainSpec { previews, ..Default::default() }, &model).unwrap();
        let text = format!("{:?}", Learning(&spec(Some(5))));
        assert_eq!(text, format!("{:?}", spec(Some(5))).replace("previews: 5, ", ""));
        assert_eq!(text, format!("{:?}", Learning(&spec(Some(0)))));
    }
}
