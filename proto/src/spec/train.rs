//! How a subject's embedding is learned.

use crate::{
    Parameterization, Refusal, Templates,
    check::{present, within},
    spec::{ModelFacts, SIZES},
    v1,
};

/// What a [`TrainSpec`] takes for fields that a request leaves out; the resolution is the model's own size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainDefaults {
    /// See [`TrainSpec::max_steps`].
    pub max_steps: u32,
    /// See [`TrainSpec::batch_size`].
    pub batch_size: u32,
    /// See [`TrainSpec::seed`].
    pub seed: u64,
    /// See [`TrainSpec::flip`].
    pub flip: bool,
    /// See [`TrainSpec::templates`].
    pub templates: Templates,
    /// See [`TrainSpec::evaluate_every`].
    pub evaluate_every: u32,
    /// See [`TrainSpec::checkpoint_every`].
    pub checkpoint_every: u32,
    /// See [`TrainSpec::previews`].
    pub previews: u32,
    /// See [`TextualInversion::vectors`].
    pub vectors: u32,
    /// See [`TextualInversion::parameterization`].
    pub parameterization: Parameterization,
    /// Learning rate of [`Parameterization::Direction`].
    pub direction_learning_rate: f64,
    /// Learning rate of [`Parameterization::Adamw`].
    pub adamw_learning_rate: f64,
}

/// The defaults of training.
pub const TRAIN_DEFAULTS: TrainDefaults = TrainDefaults {
    max_steps: 400,
    batch_size: 8,
    seed: 0,
    flip: false,
    templates: Templates::Portrait,
    evaluate_every: 25,
    checkpoint_every: 50,
    previews: 7, // one every 50 of the 400 steps, since most trainings converge before them all
    vectors: 1,
    parameterization: Parameterization::Direction,
    direction_learning_rate: 0.05,
    adamw_learning_rate: 0.005,
};

/// How a subject's embedding is learned; every field in its range.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSpec {
    /// Learning steps at most, 1 to 100,000.
    pub max_steps: u32,
    /// Samples in one step, 1 to 64.
    pub batch_size: u32,
    /// A step's noise, timesteps, prompts and flips are functions of (seed, step, sample).
    pub seed: u64,
    /// Side of the square that photos are cropped to, pixels.
    pub resolution: u32,
    /// Whether photos are shown mirrored half of the time.
    pub flip: bool,
    /// Sentences that photos without a caption are shown in.
    pub templates: Templates,
    /// Steps between two measurements of the evaluation set, 1 to 100,000.
    pub evaluate_every: u32,
    /// Steps between two checkpoints, 1 to 100,000.
    pub checkpoint_every: u32,
    /// Pictures drawn of the unfinished vectors, 0 to 16; [`Self::is_preview_point`] says when.
    pub previews: u32,
    /// What is learned.
    pub method: Method,
}

/// What is learned.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// New rows of the token table.
    TextualInversion(TextualInversion),
}

/// Textual inversion (arXiv 2208.01618): a few new rows of the token table.
#[derive(Clone, Debug, PartialEq)]
pub struct TextualInversion {
    /// Rows learned, 1 to 32; each stands in every prompt.
    pub vectors: u32,
    /// How the rows are parameterised.
    pub parameterization: Parameterization,
    /// Per step of the effective batch, above 0 and at most 10.
    pub learning_rate: f64,
}

const STEPS: std::ops::RangeInclusive<u32> = 1..=100_000;
const PREVIEWS: std::ops::RangeInclusive<u32> = 0..=16;
/// Previews of a training are at least so many steps apart: less shows nothing new.
const PREVIEW_SPACING: u32 = 10;

impl TrainSpec {
    /// Fills in what a request leaves out and checks the whole. Resolving a resolved spec changes nothing.
    ///
    /// # Errors
    /// Names the first field out of its range, and what would be accepted.
    pub fn resolve(wire: v1::TrainSpec, model: &ModelFacts) -> Result<Self, Refusal> {
        let spec = Self::try_from(filled(wire, model))?;
        model.check_size("train.resolution", spec.resolution)?;
        Ok(spec)
    }

    /// Whether a preview is due when `step` steps are done. The points part the steps evenly; the last step is none of them, since the
    /// avatars show that.
    pub fn is_preview_point(&self, step: u32) -> bool {
        let points = self.previews.min((self.max_steps / PREVIEW_SPACING).saturating_sub(1));
        (1..=points).any(|point| point * self.max_steps / (points + 1) == step)
    }
}

/// The request with a default for each absent field.
fn filled(wire: v1::TrainSpec, model: &ModelFacts) -> v1::TrainSpec {
    let defaults = &TRAIN_DEFAULTS;
    let v1::train_spec::Method::TextualInversion(inversion) =
        wire.method.unwrap_or_else(|| v1::train_spec::Method::TextualInversion(v1::TextualInversion::default()));
    v1::TrainSpec {
        max_steps: wire.max_steps.or(Some(defaults.max_steps)),
        batch_size: wire.batch_size.or(Some(defaults.batch_size)),
        seed: wire.seed.or(Some(defaults.seed)),
        resolution: wire.resolution.or(Some(model.native_size)),
        flip: wire.flip.or(Some(defaults.flip)),
        templates: wire.templates.or(Some(defaults.templates.encode())),
        evaluate_every: wire.evaluate_every.or(Some(defaults.evaluate_every)),
        checkpoint_every: wire.checkpoint_every.or(Some(defaults.checkpoint_every)),
        previews: wire.previews.or(Some(defaults.previews)),
        method: Some(v1::train_spec::Method::TextualInversion(filled_inversion(inversion))),
    }
}

fn filled_inversion(wire: v1::TextualInversion) -> v1::TextualInversion {
    let defaults = &TRAIN_DEFAULTS;
    let parameterization = wire.parameterization.unwrap_or(defaults.parameterization.encode());
    let learning_rate = match Parameterization::decode(parameterization) {
        Ok(Parameterization::Adamw) => defaults.adamw_learning_rate,
        Ok(Parameterization::Direction) | Err(_) => defaults.direction_learning_rate,
    };
    v1::TextualInversion {
        vectors: wire.vectors.or(Some(defaults.vectors)),
        parameterization: Some(parameterization),
        learning_rate: wire.learning_rate.or(Some(learning_rate)),
    }
}

impl TryFrom<v1::TrainSpec> for TrainSpec {
    type Error = Refusal;

    /// Decodes a resolved spec: every field must be present, but for `previews`, which specs of version 1 did not have.
    fn try_from(wire: v1::TrainSpec) -> Result<Self, Refusal> {
        let required = |field: &str, value| present(field, value);
        let steps = |field: &str, value| within(field, required(field, value)?, STEPS);
        Ok(Self {
            max_steps: steps("train.max_steps", wire.max_steps)?,
            batch_size: within("train.batch_size", required("train.batch_size", wire.batch_size)?, 1..=64)?,
            seed: present("train.seed", wire.seed)?,
            resolution: within("train.resolution", required("train.resolution", wire.resolution)?, SIZES)?,
            flip: present("train.flip", wire.flip)?,
            templates: Templates::decode(present("train.templates", wire.templates)?)?,
            evaluate_every: steps("train.evaluate_every", wire.evaluate_every)?,
            checkpoint_every: steps("train.checkpoint_every", wire.checkpoint_every)?,
            previews: within("train.previews", wire.previews.unwrap_or(0), PREVIEWS)?,
            method: match present("train.method", wire.method)? {
                v1::train_spec::Method::TextualInversion(wire) => Method::TextualInversion(wire.try_into()?),
            },
        })
    }
}

impl TryFrom<v1::TextualInversion> for TextualInversion {
    type Error = Refusal;

    fn try_from(wire: v1::TextualInversion) -> Result<Self, Refusal> {
        let rate = present("train.learning_rate", wire.learning_rate)?;
        Ok(Self {
            vectors: within("train.vectors", present("train.vectors", wire.vectors)?, 1..=32)?,
            parameterization: Parameterization::decode(present("train.parameterization", wire.parameterization)?)?,
            learning_rate: within("train.learning_rate", rate, 1e-9..=10.0)?,
        })
    }
}

impl From<TrainSpec> for v1::TrainSpec {
    fn from(spec: TrainSpec) -> Self {
        Self {
            max_steps: Some(spec.max_steps),
            batch_size: Some(spec.batch_size),
            seed: Some(spec.seed),
            resolution: Some(spec.resolution),
            flip: Some(spec.flip),
            templates: Some(spec.templates.encode()),
            evaluate_every: Some(spec.evaluate_every),
            checkpoint_every: Some(spec.checkpoint_every),
            previews: Some(spec.previews),
            method: Some(match spec.method {
                Method::TextualInversion(inversion) => v1::train_spec::Method::TextualInversion(inversion.into()),
            }),
        }
    }
}

impl From<TextualInversion> for v1::TextualInversion {
    fn from(inversion: TextualInversion) -> Self {
        Self {
            vectors: Some(inversion.vectors),
            parameterization: Some(inversion.parameterization.encode()),
            learning_rate: Some(inversion.learning_rate),
        }
    }
}
