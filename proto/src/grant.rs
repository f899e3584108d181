//! What the coordinator grants to a worker, decoded.

use std::time::Duration;

use crate::{
    Avatar, Checkpoint, JobId, LeaseId, ModelDigest, ObjectRef, Photo, Prefix, Refusal, Scheduler, SubjectName,
    TaskKind, TrainSpec,
    check::{count, each, present, text, within},
    object::{MAX_SENTENCE, holds_slot},
    v1,
};

/// A lease and the work it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Task and fence.
    pub lease: LeaseId,
    /// The lease lives this long from the answer on, unless renewed.
    pub lease_time: Duration,
    /// This try's number, from 1.
    pub attempt: u32,
    /// The job the task is of.
    pub job: JobId,
    /// The subject the task is of.
    pub subject: SubjectName,
    /// Everything this lease writes lies under it.
    pub output_prefix: Prefix,
    /// The base model to work with.
    pub base_model: ModelDigest,
    /// What spans about this attempt are children of, as W3C's `traceparent`; not looked at here, since nobody is refused for it.
    pub traceparent: Option<String>,
    /// What to do.
    pub work: Assignment,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Assignment {
    /// Learn a subject's embedding.
    Train(TrainWork),
    /// Draw some avatars of one subject.
    Render(RenderWork),
    /// Make a subject's contact sheet.
    Assemble(AssembleWork),
    /// Draw a picture with the unfinished vectors of a training.
    Preview(PreviewWork),
}

impl Assignment {
    /// The kind of task this is.
    pub fn kind(&self) -> TaskKind {
        match self {
            Self::Train(_) => TaskKind::Train,
            Self::Render(_) => TaskKind::Render,
            Self::Assemble(_) => TaskKind::Assemble,
            Self::Preview(_) => TaskKind::Preview,
        }
    }
}

/// Learn a subject's embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainWork {
    /// How.
    pub spec: TrainSpec,
    /// From what; at least one.
    pub photos: Vec<Photo>,
    /// What the subject is before anything is learned.
    pub init: String,
    /// Placeholder token to name the vectors by.
    pub token: String,
    /// The last committed checkpoint of an earlier attempt.
    pub checkpoint: Option<Checkpoint>,
}

/// Draw some avatars of one subject.
#[derive(Clone, Debug, PartialEq)]
pub struct RenderWork {
    /// The subject's finished embedding.
    pub embedding: ObjectRef,
    /// What to draw; at least one.
    pub shots: Vec<Shot>,
    /// What no avatar should show; may be empty.
    pub negative_prompt: String,
    /// Denoising steps, 1 to 1,000.
    pub steps: u32,
    /// Classifier-free guidance, 0 to 50.
    pub guidance: f64,
    /// Turns noise into latents.
    pub scheduler: Scheduler,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// One avatar to draw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shot {
    /// Position among the subject's avatars.
    pub index: u32,
    /// With `{subject}`.
    pub prompt: String,
    /// What the initial latents are a function of.
    pub seed: u64,
}

/// Make a subject's contact sheet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssembleWork {
    /// Go on top.
    pub photos: Vec<Photo>,
    /// Go below, with their prompts as captions.
    pub avatars: Vec<Avatar>,
}

/// Draw a picture with the unfinished vectors of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct PreviewWork {
    /// With the unfinished embedding and one shot.
    pub render: RenderWork,
    /// Steps done when the vectors were taken.
    pub step: u32,
}

impl TryFrom<v1::Grant> for Grant {
    type Error = Refusal;

    fn try_from(wire: v1::Grant) -> Result<Self, Refusal> {
        use v1::grant::Work as Wire;
        Ok(Self {
            lease: LeaseId::decode(&wire.task_id, wire.fence)?,
            lease_time: Duration::from_millis(within("lease_ms", wire.lease_ms, 1..=u32::MAX)?.into()),
            attempt: within("attempt", wire.attempt, 1..=u32::MAX)?,
            job: wire.job_id.parse()?,
            subject: wire.subject.parse()?,
            output_prefix: wire.output_prefix.parse()?,
            base_model: wire.base_model.parse()?,
            traceparent: (!wire.traceparent.is_empty()).then_some(wire.traceparent),
            work: match present("work", wire.work)? {
                Wire::Train(wire) => Assignment::Train(wire.try_into()?),
                Wire::Render(wire) => Assignment::Render(wire.try_into()?),
                Wire::Assemble(wire) => Assignment::Assemble(wire.try_into()?),
                Wire::Preview(wire) => Assignment::Preview(wire.try_into()?),
            },
        })
    }
}

impl TryFrom<v1::TrainWork> for TrainWork {
    type Error = Refusal;

    fn try_from(wire: v1::TrainWork) -> Result<Self, Refusal> {
        Ok(Self {
            spec: present("train.spec", wire.spec)?.try_into()?,
            photos: each(count("train.photos", wire.photos, 1..=10_000)?)?,
            init: text("train.init", wire.init, 1..=200)?,
            token: text("train.token", wire.token, 1..=200)?,
            checkpoint: wire.checkpoint.map(Checkpoint::try_from).transpose()?,
        })
    }
}

impl TryFrom<v1::RenderWork> for RenderWork {
    type Error = Refusal;

    fn try_from(wire: v1::RenderWork) -> Result<Self, Refusal> {
        Ok(Self {
            embedding: ObjectRef::decode("render.embedding", wire.embedding)?,
            shots: each(count("render.shots", wire.shots, 1..=10_000)?)?,
            negative_prompt: text("render.negative_prompt", wire.negative_prompt, 0..=MAX_SENTENCE)?,
            steps: within("render.steps", wire.steps, 1..=1000)?,
            guidance: within("render.guidance", wire.guidance, 0.0..=50.0)?,
            scheduler: Scheduler::decode(wire.scheduler)?,
            width: within("render.width", wire.width, 8..=4096)?,
            height: within("render.height", wire.height, 8..=4096)?,
        })
    }
}

impl TryFrom<v1::Shot> for Shot {
    type Error = Refusal;

    fn try_from(wire: v1::Shot) -> Result<Self, Refusal> {
        let prompt = holds_slot("shot.prompt", text("shot.prompt", wire.prompt, 1..=MAX_SENTENCE)?)?;
        Ok(Self { index: wire.index, prompt, seed: wire.seed })
    }
}

impl TryFrom<v1::PreviewWork> for PreviewWork {
    type Error = Refusal;

    fn try_from(wire: v1::PreviewWork) -> Result<Self, Refusal> {
        let render: RenderWork = present("preview.render", wire.render)?.try_into()?;
        let shots = count("preview.render.shots", render.shots, 1..=1)?;
        Ok(Self { render: RenderWork { shots, ..render }, step: within("preview.step", wire.step, 1..=u32::MAX)? })
    }
}

impl TryFrom<v1::AssembleWork> for AssembleWork {
    type Error = Refusal;

    fn try_from(wire: v1::AssembleWork) -> Result<Self, Refusal> {
        Ok(Self { photos: each(wire.photos)?, avatars: each(wire.avatars)? })
    }
}
