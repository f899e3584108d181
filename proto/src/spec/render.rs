//! What to draw of a subject.

use crate::{
    Refusal, SUBJECT_SLOT, Scheduler,
    check::{count, each, excerpt, present, text, within},
    object::{MAX_SENTENCE, holds_slot},
    spec::{ModelFacts, SIZES},
    v1,
};

/// What a [`RenderSpec`] takes for fields that a request leaves out; the size is the model's own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RenderDefaults {
    /// See [`RenderSpec::steps`].
    pub steps: u32,
    /// See [`RenderSpec::guidance`].
    pub guidance: f64,
    /// See [`RenderSpec::scheduler`].
    pub scheduler: Scheduler,
    /// The one seed of a prompt that has none.
    pub seed: u64,
}

/// The defaults of rendering.
pub const RENDER_DEFAULTS: RenderDefaults =
    RenderDefaults { steps: 25, guidance: 4.0, scheduler: Scheduler::Unipc, seed: 0 };

/// What to draw of each subject; every field in its range.
#[derive(Clone, Debug, PartialEq)]
pub struct RenderSpec {
    /// Sentences to draw, 1 to 1,000, of at most 10,000 avatars together.
    pub prompts: Vec<Prompt>,
    /// What no avatar should show; may be empty.
    pub negative_prompt: String,
    /// Denoising steps, 1 to 1,000.
    pub steps: u32,
    /// Classifier-free guidance (arXiv 2207.12598), 0 to 50; 1 is none.
    pub guidance: f64,
    /// Turns noise into latents.
    pub scheduler: Scheduler,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// One sentence to draw, once per seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Holds `{subject}` at least once.
    pub text: String,
    /// At least one; an avatar each.
    pub seeds: Vec<u64>,
}

const MAX_PROMPTS: usize = 1000;
const MAX_AVATARS: usize = 10_000;

impl RenderSpec {
    /// Fills in what a request leaves out and checks the whole. Resolving a resolved spec changes nothing.
    ///
    /// # Errors
    /// Names the first field out of its range or prompt without `{subject}`, and what would be accepted.
    pub fn resolve(wire: v1::RenderSpec, model: &ModelFacts) -> Result<Self, Refusal> {
        let spec = Self::try_from(filled(wire, model))?;
        model.check_size("render.width", spec.width)?;
        model.check_size("render.height", spec.height)?;
        Ok(spec)
    }

    /// Avatars of each subject.
    pub fn avatars(&self) -> usize {
        self.prompts.iter().map(|prompt| prompt.seeds.len()).sum()
    }
}

/// The request with a default for each absent field.
fn filled(wire: v1::RenderSpec, model: &ModelFacts) -> v1::RenderSpec {
    let defaults = &RENDER_DEFAULTS;
    v1::RenderSpec {
        prompts: wire.prompts.into_iter().map(seeded).collect(),
        negative_prompt: wire.negative_prompt,
        steps: wire.steps.or(Some(defaults.steps)),
        guidance: wire.guidance.or(Some(defaults.guidance)),
        scheduler: wire.scheduler.or(Some(defaults.scheduler.encode())),
        width: wire.width.or(Some(model.native_size)),
        height: wire.height.or(Some(model.native_size)),
    }
}

fn seeded(mut prompt: v1::Prompt) -> v1::Prompt {
    if prompt.seeds.is_empty() {
        prompt.seeds.push(RENDER_DEFAULTS.seed);
    }
    prompt
}

impl TryFrom<v1::RenderSpec> for RenderSpec {
    type Error = Refusal;

    /// Decodes a resolved spec: every field must be present.
    fn try_from(wire: v1::RenderSpec) -> Result<Self, Refusal> {
        let spec = Self {
            prompts: each(count("render.prompts", wire.prompts, 1..=MAX_PROMPTS)?)?,
            negative_prompt: negative(wire.negative_prompt)?,
            steps: within("render.steps", present("render.steps", wire.steps)?, 1..=1000)?,
            guidance: within("render.guidance", present("render.guidance", wire.guidance)?, 0.0..=50.0)?,
            scheduler: Scheduler::decode(present("render.scheduler", wire.scheduler)?)?,
            width: within("render.width", present("render.width", wire.width)?, SIZES)?,
            height: within("render.height", present("render.height", wire.height)?, SIZES)?,
        };
        within("the number of avatars (prompts times seeds)", spec.avatars(), 1..=MAX_AVATARS)?;
        Ok(spec)
    }
}

/// The negative prompt says what no avatar shows, so the subject cannot stand in it.
pub(crate) fn negative(wire: String) -> Result<String, Refusal> {
    if !wire.contains(SUBJECT_SLOT) {
        return text("render.negative_prompt", wire, 0..=MAX_SENTENCE);
    }
    let shown = excerpt(&wire);
    Err(Refusal::invalid(format!("negative prompt {shown:?} holds {SUBJECT_SLOT}; say there only what to avoid")))
}

impl TryFrom<v1::Prompt> for Prompt {
    type Error = Refusal;

    fn try_from(wire: v1::Prompt) -> Result<Self, Refusal> {
        let text = holds_slot("prompt", text("prompt", wire.text, 0..=MAX_SENTENCE)?)?;
        Ok(Self { text, seeds: count("prompt.seeds", wire.seeds, 1..=MAX_AVATARS)? })
    }
}

impl From<RenderSpec> for v1::RenderSpec {
    fn from(spec: RenderSpec) -> Self {
        let prompts = spec.prompts.into_iter().map(|prompt| v1::Prompt { text: prompt.text, seeds: prompt.seeds });
        Self {
            prompts: prompts.collect(),
            negative_prompt: spec.negative_prompt,
            steps: Some(spec.steps),
            guidance: Some(spec.guidance),
            scheduler: Some(spec.scheduler.encode()),
            width: Some(spec.width),
            height: Some(spec.height),
        }
    }
}
