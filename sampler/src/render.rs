//! Render and preview tasks: from an embedding and shots to pictures in the bucket.

use std::{sync::Arc, time::Instant};

use likeness_diffusion::{Base, BaseModel, Embedding, Look, SamplerKind, Shot, Start};
use likeness_proto::{
    Avatar, ErrorCode, Grant, PreviewWork, Refusal, RenderWork, Scheduler, avatar_name, v1,
    v1::{WarningCode, renewal::Progress},
};
use likeness_telemetry::child;
use likeness_worker::{Done, Task, WorkError};
use tracing::{Instrument, info};

use crate::{
    batch::{Step, Subject},
    failure::{failed, off_thread, refused},
    picture::{Origin, to_png},
    prompts,
    sampler::Sampler,
};

impl Sampler {
    /// Draws a task's shots.
    pub(crate) async fn render(&self, grant: &Grant, work: RenderWork, task: &Task) -> Result<Done, WorkError> {
        let began = Instant::now();
        let tell = |avatars_done| task.report(Progress::Render(v1::RenderReport { avatars_done }));
        let (avatars, warnings) = self.draw(grant, &work, task, tell).await?;
        let seconds = began.elapsed().as_secs_f64();
        let Step { passes, pictures } = self.engine.tally();
        let pictures_per_pass = pictures as f64 / passes as f64;
        info!(job = %grant.job, task = %grant.lease.task, avatars = avatars.len(), seconds, pictures_per_pass, "avatars rendered");
        let avatars = avatars.into_iter().map(v1::Avatar::from).collect();
        let result = v1::complete_request::Result::Render(v1::RenderResult { avatars, seconds });
        Ok(Done { result, warnings })
    }

    /// Draws a preview. What there is to warn of the prompt, the renders will.
    pub(crate) async fn preview(&self, grant: &Grant, work: PreviewWork, task: &Task) -> Result<Done, WorkError> {
        let (mut drawn, _warnings) = self.draw(grant, &work.render, task, |_done| {}).await?;
        let picture = drawn.pop().map(|avatar| avatar.object.into());
        info!(job = %grant.job, task = %grant.lease.task, step = work.step, "preview drawn");
        let result = v1::complete_request::Result::Preview(v1::PreviewResult { picture });
        Ok(Done { result, warnings: Vec::new() })
    }

    /// Draws a task's shots, beside those of other tasks, and tells how many are done. A picture's bytes depend on its shot, the embedding,
    /// the look and the job, never on what is drawn beside it.
    async fn draw(
        &self,
        grant: &Grant,
        work: &RenderWork,
        task: &Task,
        tell: impl Fn(u32),
    ) -> Result<(Vec<Avatar>, Vec<v1::Warning>), WorkError> {
        let embedding = self.embedding(work, task).instrument(child!("pull")).await?;
        let (shots, warnings) = shots(&self.model, &embedding, work, grant)?;
        let subject = Subject { digest: work.embedding.sha256, embedding };
        let stop = task.stop().clone();
        let mut drawing = self.engine.draw(subject, look(work), shots, move || stop.requested().is_none())?;

        let mut avatars = Vec::with_capacity(work.shots.len());
        while avatars.len() < work.shots.len() {
            let (place, pixels) = drawing.next().await?;
            let provenance = self.provenance(grant, Origin::Drawn);
            let shot = &work.shots[place]; // the place is one of the shots that were ordered
            let write = async {
                let file = off_thread(task, move || to_png(&pixels, &provenance).map_err(failed)).await?;
                Ok::<_, WorkError>(task.bucket().put(&avatar_name(shot.index), file).await?)
            };
            let object = write.instrument(child!("write", likeness.picture = place)).await?;
            avatars.push(Avatar { object, prompt: shot.prompt.clone(), seed: shot.seed, index: shot.index });
            tell(avatars.len() as u32);
        }
        avatars.sort_by_key(|avatar| avatar.index);
        Ok((avatars, warnings))
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
}

fn look(work: &RenderWork) -> Look {
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
fn shots(
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
