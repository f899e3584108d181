//! The sampler as a node's work.

use std::sync::Arc;

use likeness_diffusion::{BaseModel, Embedding};
use likeness_proto::{Assignment, ErrorCode, Grant, Sha256, TaskKind};
use likeness_worker::{BoxFuture, Done, Task, Work, WorkError};

use crate::{
    cache::Cache,
    engine::Engine,
    failure::refused,
    picture::{Origin, Provenance},
};

/// How a sampler uses its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Embeddings kept in memory, a few KB each.
    pub embeddings: usize,
    /// Pixels of the avatars under way at once, whichever tasks they belong to; a single avatar may have more.
    pub pixels_at_once: usize,
}

impl Default for Options {
    /// 256 embeddings; one avatar of 512 × 512 pixels at once, or sixteen of 128 × 128.
    fn default() -> Self {
        Self { embeddings: 256, pixels_at_once: 512 * 512 }
    }
}

/// Renders avatars and previews, and makes contact sheets.
#[derive(Debug)]
pub struct Sampler {
    pub(crate) model: Arc<BaseModel>,
    pub(crate) embeddings: Cache<Sha256, Embedding>,
    pub(crate) engine: Engine,
}

impl Sampler {
    /// A sampler that draws with `model`.
    pub fn new(model: Arc<BaseModel>, options: Options) -> Self {
        let engine = Engine::new(Arc::clone(&model), options.pixels_at_once);
        Self { model, embeddings: Cache::new(options.embeddings), engine }
    }

    pub(crate) fn provenance(&self, grant: &Grant, origin: Origin) -> Provenance {
        let preview = match &grant.work {
            Assignment::Preview(work) => Some(work.step),
            Assignment::Train(_) | Assignment::Render(_) | Assignment::Assemble(_) => None,
        };
        Provenance { origin, job: Some(grant.job.to_string()), base_model: self.model.digest.clone(), preview }
    }

    /// Refuses a grant for a model that this node does not hold.
    fn check_model(&self, grant: &Grant) -> Result<(), WorkError> {
        let (wanted, held) = (grant.base_model.as_str(), self.model.digest.as_ref());
        if wanted == held {
            return Ok(());
        }
        let message = format!("the task is for base model {wanted}, this sampler holds {held}");
        Err(WorkError::Failed { code: ErrorCode::ModelUnavailable, message, retry: true })
    }
}

impl Work for Sampler {
    fn kinds(&self) -> &[TaskKind] {
        &[TaskKind::Render, TaskKind::Assemble, TaskKind::Preview]
    }

    fn run(&self, grant: Grant, task: Task) -> BoxFuture<'_, Result<Done, WorkError>> {
        Box::pin(self.attempt(grant, task))
    }
}

impl Sampler {
    async fn attempt(&self, grant: Grant, task: Task) -> Result<Done, WorkError> {
        self.check_model(&grant)?;
        match grant.work.clone() {
            Assignment::Render(work) => self.render(&grant, work, &task).await,
            Assignment::Assemble(work) => self.assemble(&grant, work, &task).await,
            Assignment::Preview(work) => self.preview(&grant, work, &task).await,
            Assignment::Train(_) => Err(refused(ErrorCode::Internal, "a sampler cannot train".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;
