//! Render tasks: from an embedding and shots to avatars in the bucket.

use std::{ops::ControlFlow, sync::Arc, time::Instant};

use likeness_diffusion::{Base, BaseModel, Embedding, Look, RenderError, SamplerKind, Shot, Start};
use likeness_proto::{
    Avatar, ErrorCode, Grant, Refusal, RenderWork, Scheduler, avatar_name, v1,
    v1::{WarningCode, renewal::Progress},
};
use likeness_worker::{Done, StopSignal, Task, WorkError};
use tracing::info;

use crate::{
    failure::{failed, off_thread, refused},
    picture::{Origin, Provenance, to_png},
    prompts,
    sampler::Sampler,
};

impl Sampler {
    /// Draws a task's shots, batch by batch. An avatar's bytes depend on its shot, the embedding, the look and the job, never
    /// on the batch it was drawn in.
    pub(crate) async fn render(&self, grant: &Grant, work: RenderWork, task: &Task) -> Result<Done, WorkError> {
        let began = Instant::now();
        let embedding = self.embedding(&work, task).await?;
        let look = look(&work);
        let (shots, warnings) = shots(&self.model, &embedding, &work, grant)?;

        let batch = self.batch(&look);
        let mut avatars = Vec::with_capacity(shots.len());
        for (batch, asked) in shots.chunks(batch).zip(work.shots.chunks(batch)) {
            let drawing = self.drawing(&embedding, batch, look, grant, task);
            let files = off_thread(task, move || drawing.draw()).await?;
            for (shot, file) in asked.iter().zip(files) {
                let object = task.bucket().put(&avatar_name(shot.index), file).await?;
                avatars.push(Avatar { object, prompt: shot.prompt.clone(), seed: shot.seed, index: shot.index });
            }
            task.report(Progress::Render(v1::RenderReport { avatars_done: avatars.len() as u32 }));
        }

        let seconds = began.elapsed().as_secs_f64();
        info!(job = %grant.job, task = %grant.lease.task, avatars = avatars.len(), seconds, "avatars rendered");
        let avatars = avatars.into_iter().map(v1::Avatar::from).collect();
        let result = v1::complete_request::Result::Render(v1::RenderResult { avatars, seconds });
        Ok(Done { result, warnings })
    }

    /// A batch of a task.
    pub(crate) fn drawing(
        &self,
        embedding: &Arc<Embedding>,
        shots: &[Shot],
        look: Look,
        grant: &Grant,
        task: &Task,
    ) -> Drawing {
        Drawing {
            model: Arc::clone(&self.model),
            embedding: Arc::clone(embedding),
            shots: shots.to_vec(),
            look,
            provenance: self.provenance(grant, Origin::Drawn),
            stop: task.stop().clone(),
        }
    }

    /// The task's embedding, if it belongs to the loaded model.
    pub(crate) async fn embedding(&self, work: &RenderWork, task: &Task) -> Result<Arc<Embedding>, WorkError> {
        let object = &work.embedding;
        let embedding = match self.embeddings.get(&object.sha256) {
            Some(embedding) => embedding,
            None => {
                let bytes = task.bucket().get(object).await?;
                let read = Embedding::from_bytes(&bytes, &self.model.device);
                let embedding = read.map_err(|error| {
                    refused(ErrorCode::ObjectCorrupt, format!("embedding {} cannot be read: {error}", object.key))
                })?;
                self.embeddings.put(object.sha256, embedding)
            }
        };
        let mismatch = |why: String| refused(ErrorCode::ModelMismatch, why);
        match embedding.check_base(&self.model.digest).map_err(|error| mismatch(error.to_string()))? {
            Base::Same => Ok(embedding),
            Base::Unknown => Err(mismatch(format!("embedding {} does not say which base model it is of", object.key))),
        }
    }

    /// Shots drawn at once.
    fn batch(&self, look: &Look) -> usize {
        (self.options.pixels_at_once / (look.width * look.height).max(1)).max(1)
    }
}

/// A batch on its way through the model.
pub(crate) struct Drawing {
    model: Arc<BaseModel>,
    embedding: Arc<Embedding>,
    shots: Vec<Shot>,
    look: Look,
    provenance: Provenance,
    stop: StopSignal,
}

impl Drawing {
    /// The avatars' files, in order. Looks at the stop signal after every denoising step.
    pub(crate) fn draw(self) -> Result<Vec<Vec<u8>>, WorkError> {
        let mut progress = |_step| match self.stop.requested() {
            Some(_why) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        };
        let rows = &self.embedding.rows;
        let drawn = likeness_diffusion::render(&self.model, Some(rows), &self.shots, &self.look, &mut progress);
        let pictures = drawn.map_err(render_failed)?;
        pictures.iter().map(|picture| to_png(picture, &self.provenance).map_err(failed)).collect()
    }
}

fn render_failed(error: RenderError) -> WorkError {
    match error {
        RenderError::Stopped { .. } => WorkError::Stopped,
        RenderError::Look { .. } | RenderError::Steps(_) => refused(ErrorCode::InvalidArgument, error.to_string()),
        RenderError::NotFinite { .. } => refused(ErrorCode::Diverged, error.to_string()),
        RenderError::Tensor(_) => failed(error),
    }
}

pub(crate) fn look(work: &RenderWork) -> Look {
    let sampler = match work.scheduler {
        Scheduler::Ddim => SamplerKind::Ddim,
        Scheduler::EulerAncestral => SamplerKind::EulerAncestral,
        Scheduler::Unipc => SamplerKind::UniPc,
    };
    Look {
        sampler,
        steps: work.steps as usize,
        guidance: work.guidance.max(1.0), // below 1 is none, as in diffusers
        width: work.width as usize,
        height: work.height as usize,
    }
}

/// Encodes the task's prompts; warns once of each that is cut.
pub(crate) fn shots(
    model: &BaseModel,
    embedding: &Embedding,
    work: &RenderWork,
    grant: &Grant,
) -> Result<(Vec<Shot>, Vec<v1::Warning>), WorkError> {
    let negative = prompts::encode_plain(&model.tokenizer, &work.negative_prompt)?;
    let mut notices: Vec<String> = Vec::new();
    notices.extend(prompts::cut_notice("negative prompt", &work.negative_prompt, &negative));

    let mut shot = |asked: &likeness_proto::Shot| {
        let prompt = prompts::encode(&model.tokenizer, &asked.prompt, embedding.vectors())?;
        let notice = prompts::cut_notice("prompt", &asked.prompt, &prompt);
        notices.extend(notice.filter(|notice| !notices.contains(notice)));
        Ok(Shot { prompt, negative: negative.clone(), noise: Start::Seed(asked.seed) })
    };
    let shots: Result<Vec<Shot>, Refusal> = work.shots.iter().map(&mut shot).collect();

    let subject = grant.subject.to_string();
    let warning = |message| v1::Warning { code: WarningCode::PromptCut.into(), message, subject: subject.clone() };
    Ok((shots?, notices.into_iter().map(warning).collect()))
}
