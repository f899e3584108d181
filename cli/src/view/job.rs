//! A job as data.

use super::{EmbeddingView, ObjectView, WarningView, plain, time};
use likeness_proto::{Parameterization, Scheduler, Templates, v1};
use serde::Serialize;

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobView {
    /// Its id.
    pub id: String,
    /// queued, running, succeeded, partly_failed, failed or cancelled.
    pub state: String,
    /// When it was accepted.
    pub submitted_at: Option<String>,
    /// When it ended.
    pub ended_at: Option<String>,
    /// Grows with every change.
    pub revision: u64,
    /// Digest of the base model.
    pub base_model: String,
    /// Version of how specs are resolved.
    pub spec_version: u32,
    /// How its subjects are learned; none: they were learned before.
    pub train: Option<TrainView>,
    /// What is drawn.
    pub render: Option<RenderView>,
    /// Its subjects.
    pub subjects: Vec<SubjectProgressView>,
}

/// How subjects are learned.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs)] // the fields of `TrainSpec`, which the proto documents
pub struct TrainView {
    pub max_steps: Option<u32>,
    pub batch_size: Option<u32>,
    pub seed: Option<u64>,
    pub resolution: Option<u32>,
    pub flip: Option<bool>,
    pub templates: Option<&'static str>,
    pub evaluate_every: Option<u32>,
    pub checkpoint_every: Option<u32>,
    pub previews: Option<u32>,
    pub vectors: Option<u32>,
    pub parameterization: Option<&'static str>,
    pub learning_rate: Option<f64>,
}

/// What is drawn.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs)] // the fields of `RenderSpec`, which the proto documents
pub struct RenderView {
    pub prompts: Vec<PromptView>,
    pub negative_prompt: String,
    pub steps: Option<u32>,
    pub guidance: Option<f64>,
    pub scheduler: Option<&'static str>,
    pub width: Option<u32>,
    pub height: Option<u32>,
}

/// One sentence to draw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PromptView {
    /// With `{subject}`.
    pub text: String,
    /// An avatar each.
    pub seeds: Vec<u64>,
}

/// One subject's way through a job.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs)] // the fields of `SubjectProgress` and what it holds, which the proto documents
pub struct SubjectProgressView {
    pub subject: String,
    pub state: String,
    pub token: String,
    pub init: String,
    pub step: u32,
    pub max_steps: u32,
    pub loss: f32,
    pub evaluation_loss: f32,
    pub steps_per_second: f32,
    pub checkpoint_step: u32,
    pub trained: Option<OutcomeView>,
    pub previews: Vec<PreviewView>,
    pub avatars_done: u32,
    pub avatars_total: u32,
    pub render_seconds: f64,
    pub avatars: Vec<AvatarView>,
    pub contact_sheet: Option<ObjectView>,
    pub embedding: Option<EmbeddingView>,
    pub error: Option<ErrorView>,
    pub warnings: Vec<WarningView>,
}

/// How training ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs)] // the fields of `TrainOutcome`, which the proto documents
pub struct OutcomeView {
    pub steps: u32,
    pub stop_reason: String,
    pub eval_loss_first: f32,
    pub eval_loss_best: f32,
    pub best_step: u32,
    pub seconds: f64,
}

/// A finished avatar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // the fields of `Avatar`, which the proto documents
pub struct AvatarView {
    pub index: u32,
    pub prompt: String,
    pub seed: u64,
    pub object: Option<ObjectView>,
}

/// A picture of how far the learning was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // the fields of `Preview`, which the proto documents
pub struct PreviewView {
    pub step: u32,
    pub object: Option<ObjectView>,
}

/// Why a subject failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorView {
    /// Kind of error.
    pub code: String,
    /// A sentence.
    pub message: String,
}

impl From<&v1::Job> for JobView {
    fn from(job: &v1::Job) -> Self {
        Self {
            id: job.id.clone(),
            state: plain(job.state().as_str_name(), "JOB_STATE_"),
            submitted_at: time(job.submitted_at.as_ref()),
            ended_at: time(job.ended_at.as_ref()),
            revision: job.revision,
            base_model: job.base_model.clone(),
            spec_version: job.spec_version,
            train: job.train.as_ref().map(Into::into),
            render: job.render.as_ref().map(Into::into),
            subjects: job.subjects.iter().map(Into::into).collect(),
        }
    }
}

impl From<&v1::TrainSpec> for TrainView {
    fn from(spec: &v1::TrainSpec) -> Self {
        let inversion = spec.method.as_ref().map(|v1::train_spec::Method::TextualInversion(inversion)| inversion);
        let parameterization =
            inversion.and_then(|inversion| Parameterization::decode(inversion.parameterization?).ok());
        Self {
            max_steps: spec.max_steps,
            batch_size: spec.batch_size,
            seed: spec.seed,
            resolution: spec.resolution,
            flip: spec.flip,
            templates: spec.templates.and_then(|number| Templates::decode(number).ok()).map(Templates::as_str),
            evaluate_every: spec.evaluate_every,
            checkpoint_every: spec.checkpoint_every,
            previews: spec.previews,
            vectors: inversion.and_then(|inversion| inversion.vectors),
            parameterization: parameterization.map(Parameterization::as_str),
            learning_rate: inversion.and_then(|inversion| inversion.learning_rate),
        }
    }
}

impl From<&v1::RenderSpec> for RenderView {
    fn from(spec: &v1::RenderSpec) -> Self {
        let prompt = |prompt: &v1::Prompt| PromptView { text: prompt.text.clone(), seeds: prompt.seeds.clone() };
        Self {
            prompts: spec.prompts.iter().map(prompt).collect(),
            negative_prompt: spec.negative_prompt.clone(),
            steps: spec.steps,
            guidance: spec.guidance,
            scheduler: spec.scheduler.and_then(|number| Scheduler::decode(number).ok()).map(Scheduler::as_str),
            width: spec.width,
            height: spec.height,
        }
    }
}

impl From<&v1::SubjectProgress> for SubjectProgressView {
    fn from(progress: &v1::SubjectProgress) -> Self {
        let training = progress.training.unwrap_or_default();
        let rendering = progress.rendering.unwrap_or_default();
        Self {
            subject: progress.subject.clone(),
            state: plain(progress.state().as_str_name(), "SUBJECT_STATE_"),
            token: progress.token.clone(),
            init: progress.init.clone(),
            step: training.step,
            max_steps: training.max_steps,
            loss: training.loss,
            evaluation_loss: training.evaluation_loss,
            steps_per_second: training.steps_per_second,
            checkpoint_step: training.checkpoint_step,
            trained: progress.trained.as_ref().map(Into::into),
            previews: progress.previews.iter().map(Into::into).collect(),
            avatars_done: rendering.avatars_done,
            avatars_total: rendering.avatars_total,
            render_seconds: rendering.seconds,
            avatars: progress.avatars.iter().map(Into::into).collect(),
            contact_sheet: progress.contact_sheet.as_ref().map(Into::into),
            embedding: progress.embedding.as_ref().map(Into::into),
            error: progress.error.as_ref().map(Into::into),
            warnings: progress.warnings.iter().map(Into::into).collect(),
        }
    }
}

impl From<&v1::TrainOutcome> for OutcomeView {
    fn from(outcome: &v1::TrainOutcome) -> Self {
        Self {
            steps: outcome.steps,
            stop_reason: plain(outcome.stop_reason().as_str_name(), "STOP_REASON_"),
            eval_loss_first: outcome.evaluation_loss_first,
            eval_loss_best: outcome.evaluation_loss_best,
            best_step: outcome.best_step,
            seconds: outcome.seconds,
        }
    }
}

impl From<&v1::Avatar> for AvatarView {
    fn from(avatar: &v1::Avatar) -> Self {
        Self {
            index: avatar.index,
            prompt: avatar.prompt.clone(),
            seed: avatar.seed,
            object: avatar.object.as_ref().map(Into::into),
        }
    }
}

impl From<&v1::Preview> for PreviewView {
    fn from(preview: &v1::Preview) -> Self {
        Self { step: preview.step, object: preview.object.as_ref().map(Into::into) }
    }
}

impl From<&v1::ErrorDetail> for ErrorView {
    fn from(error: &v1::ErrorDetail) -> Self {
        Self { code: plain(error.code().as_str_name(), "ERROR_CODE_"), message: error.message.clone() }
    }
}
