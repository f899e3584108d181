//! Training as a worker's task: photos from the bucket, checkpoints and the embedding back into it, losses to the coordinator.

mod saver;
mod watcher;

use std::sync::Arc;

use likeness_diffusion::{BaseModel, Device, Embedding, Facts};
use likeness_proto::{Assignment, EMBEDDING_NAME, ErrorCode, Grant, TaskKind, TrainWork, v1};
use likeness_worker::{BoxFuture, Done, Stop, Task, Work, WorkError};
use tracing::{info, warn};

use crate::{Checkpoint, Latents, Learned, Lesson, Photo, Subject, TrainError, Verdict, train};
use saver::Saver;
use watcher::Watcher;

/// Learns subjects for a coordinator.
#[derive(Clone, Debug)]
pub struct Trainer {
    model: Arc<BaseModel>,
    options: Options,
}

/// How a trainer works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where latents and learned rows live; the model must have been loaded there.
    pub device: Device,
}

impl Default for Options {
    fn default() -> Self {
        Self { device: Device::Cpu }
    }
}

impl Trainer {
    /// A trainer of subjects on `model`.
    #[must_use]
    pub fn new(model: Arc<BaseModel>, options: Options) -> Self {
        Self { model, options }
    }
}

impl Work for Trainer {
    fn kinds(&self) -> &[TaskKind] {
        &[TaskKind::Train]
    }

    fn run(&self, grant: Grant, task: Task) -> BoxFuture<'_, Result<Done, WorkError>> {
        Box::pin(self.attempt(grant, task))
    }
}

impl Trainer {
    async fn attempt(&self, grant: Grant, task: Task) -> Result<Done, WorkError> {
        let order = Order::fetch(&self.model, grant, &task).await?;
        let saver = Saver::start(&task);
        let watcher = Watcher::new(task.clone(), saver.inbox());
        let (trainer, lent) = (self.clone(), Arc::clone(&order));
        let learned = tokio::task::spawn_blocking(move || trainer.learn(&lent, watcher)).await;
        saver.finish().await; // before any later checkpoint, which would otherwise be overtaken

        match learned {
            Ok(Ok(lessons)) => self.complete(&order, lessons, &task).await,
            Ok(Err(error)) => Err(give_up(error, &task).await),
            Err(panic) => Err(failed(ErrorCode::Internal, format!("training ended unexpectedly: {panic}"), true)),
        }
    }
}

/// A task with everything it needs from the bucket.
struct Order {
    grant: Grant,
    work: TrainWork,
    photos: Vec<Vec<u8>>,
    checkpoint: Option<Vec<u8>>,
}

impl Order {
    async fn fetch(model: &BaseModel, grant: Grant, task: &Task) -> Result<Arc<Self>, WorkError> {
        let Assignment::Train(work) = grant.work.clone() else {
            return Err(failed(
                ErrorCode::Internal,
                format!("a trainer was given a task of kind {}", grant.work.kind()),
                true,
            ));
        };
        if grant.base_model.to_string() != model.digest.as_ref() {
            let message = format!("the task is for base model {}, loaded is {}", grant.base_model, model.digest);
            return Err(failed(ErrorCode::ModelUnavailable, message, true));
        }
        let mut photos = Vec::new();
        for photo in &work.photos {
            photos.push(task.bucket().get(&photo.object).await?);
        }
        let checkpoint = match &work.checkpoint {
            Some(checkpoint) => Some(task.bucket().get(&checkpoint.object).await?),
            None => None,
        };
        Ok(Arc::new(Self { grant, work, photos, checkpoint }))
    }

    /// The checkpoint of an earlier attempt. One that cannot be read is no reason to fail: from the start the run comes to the
    /// same vectors, only later.
    fn start(&self, lesson: &Lesson, model: &BaseModel) -> Option<Checkpoint> {
        let bytes = self.checkpoint.as_deref()?;
        let usable =
            Checkpoint::from_bytes(bytes).and_then(|c| c.check(model.digest.as_ref(), &lesson.digest()).map(|()| c));
        usable.inspect_err(|error| warn!(%error, "checkpoint refused, training starts over")).ok()
    }
}

/// What a blocking thread brings back.
struct Lessons {
    learned: Learned,
    warnings: Vec<v1::Warning>,
}

impl Trainer {
    /// From bytes to vectors; blocks.
    fn learn(&self, order: &Order, mut watcher: Watcher) -> Result<Lessons, TrainError> {
        let (model, work) = (&self.model, &order.work);
        let side = work.spec.resolution as usize;
        let decode = |(photo, bytes): (&likeness_proto::Photo, &Vec<u8>)| {
            Photo::decode(&photo.file_name, bytes, photo.caption.clone(), side)
        };
        let photos = work.photos.iter().zip(&order.photos).map(decode).collect::<Result<Vec<_>, _>>()?;
        let latents = Latents::encode(model, &photos, work.spec.flip, &self.options.device)?;
        let subject = Subject { latents, init: work.init.clone(), token: work.token.clone() };
        let lesson = Lesson::new(model, &subject, &work.spec)?;
        let learned = train(&lesson, order.start(&lesson, model), &mut watcher)?;
        let warnings = lesson.cut().map(|(caption, cut)| cut_warning(order, caption, cut)).collect();
        Ok(Lessons { learned, warnings })
    }

    async fn complete(&self, order: &Order, lessons: Lessons, task: &Task) -> Result<Done, WorkError> {
        if task.stop().requested().is_some_and(Stop::is_final) {
            return Err(WorkError::Stopped);
        }
        let Lessons { learned, warnings } = lessons;
        let embedding = self.embedding(order, &learned).to_bytes().map_err(|error| refuse(&error.into()))?;
        let object = task.bucket().put(EMBEDDING_NAME, embedding).await?;
        let outcome = v1::TrainOutcome {
            steps: learned.steps,
            stop_reason: learned.reason.encode(),
            evaluation_loss_first: learned.evaluations.first().map_or(learned.best_loss, |e| e.loss),
            evaluation_loss_best: learned.best_loss,
            best_step: learned.best_step,
            seconds: learned.seconds,
        };
        info!(
            steps = outcome.steps,
            reason = learned.reason.as_str(),
            first = outcome.evaluation_loss_first,
            best = outcome.evaluation_loss_best,
            best_step = outcome.best_step,
            seconds = outcome.seconds,
            "subject learned"
        );
        let result = v1::TrainResult { embedding: Some(object.into()), outcome: Some(outcome), last: None };
        Ok(Done { result: v1::complete_request::Result::Train(result), warnings })
    }

    fn embedding(&self, order: &Order, learned: &Learned) -> Embedding {
        Embedding {
            token: order.work.token.clone(),
            rows: learned.rows.clone(),
            facts: Some(Facts {
                base_model: self.model.digest.clone(),
                base_model_name: self.model.name.clone(),
                steps: u64::from(learned.best_step),
                loss: learned.best_loss,
                seed: order.work.spec.seed,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                init: order.work.init.clone(),
            }),
        }
    }
}

/// Ends an attempt that learned nothing to publish. Nothing is lost: a drained or diverged run leaves a checkpoint.
async fn give_up(error: TrainError, task: &Task) -> WorkError {
    match &error {
        TrainError::Interrupted(checkpoint) if task.stop().requested() == Some(Stop::Draining) => {
            saver::save(task, checkpoint).await;
        }
        TrainError::Diverged { kept, .. } => saver::save(task, kept).await,
        _ => {}
    }
    refuse(&error)
}

fn refuse(error: &TrainError) -> WorkError {
    match error.verdict() {
        Verdict::Drop => WorkError::Stopped,
        Verdict::Retry => failed(error.code(), error.to_string(), true),
        Verdict::Fail => failed(error.code(), error.to_string(), false),
    }
}

fn failed(code: ErrorCode, message: String, retry: bool) -> WorkError {
    WorkError::Failed { code, message, retry }
}

fn cut_warning(order: &Order, caption: &str, cut: &str) -> v1::Warning {
    v1::Warning {
        code: v1::WarningCode::PromptCut as i32,
        message: format!("the caption {caption:?} is longer than the text encoder reads; {cut:?} was cut"),
        subject: order.grant.subject.to_string(),
    }
}
