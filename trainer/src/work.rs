//! Training as a worker's task: photos from the bucket, checkpoints and the embedding back into it, losses to the coordinator.

mod previewer;
mod saver;
mod watcher;

use std::sync::Arc;

use likeness_diffusion::{BaseModel, Device, Embedding, Facts, Tensor};
use likeness_proto::{Assignment, EMBEDDING_NAME, ErrorCode, Grant, TaskKind, TrainWork, v1};
use likeness_telemetry::child;
use likeness_worker::{BoxFuture, Done, Stop, Task, Work, WorkError};
use tokio::sync::Mutex;
use tracing::{Instrument, Span, info, warn};

use crate::{
    Checkpoint, Group, Latents, Learned, Lesson, Packing, Photo, Subject, TrainError, Verdict, engine::Engine, metrics,
    run::Run,
};
use previewer::Previewer;
use saver::Saver;
use watcher::Watcher;

/// Learns subjects for a coordinator: all that it is given at once in one pack.
#[derive(Debug)]
pub struct Trainer {
    model: Arc<BaseModel>,
    options: Options,
    engine: Engine,
    /// Subjects are made ready one after the other: each keeps all cores busy, and the first can be learned sooner.
    preparing: Mutex<()>,
}

/// How a trainer works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where latents and learned rows live; the model must have been loaded there.
    pub device: Device,
    /// Latent positions that go through the network at once, at most; see [`Packing::positions`].
    pub positions: usize,
    /// Tasks that it is given at once, at most; for its metrics alone, since whoever leases the tasks sees to it.
    pub slots: usize,
    /// The ranks that learn together under this trainer; none: this process does by itself.
    pub group: Option<Group>,
}

impl Default for Options {
    fn default() -> Self {
        Self { device: Device::Cpu, positions: Packing::default().positions, slots: 1, group: None }
    }
}

impl Trainer {
    /// A trainer of subjects on `model`.
    #[must_use]
    pub fn new(model: Arc<BaseModel>, options: Options) -> Self {
        metrics::slots(options.slots);
        Self {
            model,
            engine: Engine::new(options.positions, options.group.clone()),
            options,
            preparing: Mutex::new(()),
        }
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
        let order = Order::fetch(&self.model, grant, &task).instrument(child!("load")).await?;
        let ready = self.prepare(&order, &task).await?;
        let saver = Saver::start(&task);
        let steps = child!("learn");
        let (previewer, previews) = Previewer::start(&task, &order, &self.model);
        let watcher = Watcher::new(task.clone(), saver.inbox(), previews, steps.clone());
        let ended = self.engine.learn(ready.run, Box::new(watcher)).instrument(steps).await;
        drop(previewer);
        metrics::trained(&ended);
        saver.finish().await; // before any later checkpoint, which would otherwise be overtaken

        match ended {
            Ok(learned) => self.complete(&order, &learned, ready.warnings, &task).await,
            Err(error) => Err(give_up(error, &task).await),
        }
    }

    /// From bytes to a run, when it is this task's turn.
    async fn prepare(&self, order: &Arc<Order>, task: &Task) -> Result<Ready, WorkError> {
        let _turn = self.preparing.lock().await;
        if task.stop().requested().is_some() {
            return Err(WorkError::Stopped); // an earlier attempt's checkpoint is still the newest
        }
        let (order, model, device) = (Arc::clone(order), Arc::clone(&self.model), self.options.device.clone());
        let (span, encode) = (Span::current(), child!("encode", likeness.photos = order.photos.len()));
        let prepare = move || span.in_scope(|| encode.in_scope(|| order.prepare(&model, &device)));
        let prepared = tokio::task::spawn_blocking(prepare).await;
        prepared.unwrap_or_else(|panic| Err(TrainError::Crashed(panic.to_string()))).map_err(|error| refuse(&error))
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

    /// From bytes to a run; blocks.
    fn prepare(&self, model: &Arc<BaseModel>, device: &Device) -> Result<Ready, TrainError> {
        let work = &self.work;
        let side = work.spec.resolution as usize;
        let decode = |(photo, bytes): (&likeness_proto::Photo, &Vec<u8>)| {
            Photo::decode(&photo.file_name, bytes, photo.caption.clone(), side)
        };
        let photos = work.photos.iter().zip(&self.photos).map(decode).collect::<Result<Vec<_>, _>>()?;
        let latents = Latents::encode(model, &photos, work.spec.flip, device)?;
        let subject = Subject { latents, init: work.init.clone(), token: work.token.clone() };
        let lesson = Lesson::new(model, &subject, &work.spec)?;
        let warnings = lesson.cut().map(|(caption, cut)| cut_warning(self, caption, cut)).collect();
        let from = self.start(&lesson);
        Ok(Ready { run: Run::begin(lesson, from)?, warnings })
    }

    /// The checkpoint of an earlier attempt. One that cannot be read is no reason to fail: from the start the run comes to the
    /// same vectors, only later.
    fn start(&self, lesson: &Lesson) -> Option<Checkpoint> {
        let (bytes, model) = (self.checkpoint.as_deref()?, &lesson.model().digest);
        let usable = Checkpoint::from_bytes(bytes).and_then(|c| c.check(model.as_ref(), &lesson.digest()).map(|()| c));
        usable.inspect_err(|error| warn!(%error, "checkpoint refused, training starts over")).ok()
    }
}

impl Order {
    /// The file of what was learned in so many steps.
    fn embedding(&self, model: &BaseModel, rows: Tensor, steps: u32, loss: f32) -> Embedding {
        Embedding {
            token: self.work.token.clone(),
            rows,
            facts: Some(Facts {
                base_model: model.digest.clone(),
                base_model_name: model.name.clone(),
                steps: u64::from(steps),
                loss,
                seed: self.work.spec.seed,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                init: self.work.init.clone(),
            }),
        }
    }
}

/// A run that can begin, and what the user should know of it.
struct Ready {
    run: Run,
    warnings: Vec<v1::Warning>,
}

impl Trainer {
    async fn complete(
        &self,
        order: &Order,
        learned: &Learned,
        warnings: Vec<v1::Warning>,
        task: &Task,
    ) -> Result<Done, WorkError> {
        if task.stop().requested().is_some_and(Stop::is_final) {
            return Err(WorkError::Stopped);
        }
        let embedding = order
            .embedding(&self.model, learned.rows.clone(), learned.best_step, learned.best_loss)
            .to_bytes()
            .map_err(|error| refuse(&error.into()))?;
        let object = task.bucket().put(EMBEDDING_NAME, embedding).instrument(child!("publish")).await?;
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
