//! What workers tell the coordinator, decoded.

use std::time::Duration;

use crate::{
    Avatar, Checkpoint, ErrorCode, Incarnation, LeaseId, ModelDigest, ModelFacts, ObjectRef, PROTOCOL_VERSION, Refusal,
    Snapshot, StopReason, TaskKind,
    check::{count, each, measure, present, text, within},
    v1,
};

/// A worker introduces one of its incarnations.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    /// Name of the node; stable over restarts.
    pub worker: String,
    /// This process.
    pub incarnation: Incarnation,
    /// Kinds of tasks it can do; at least one.
    pub kinds: Vec<TaskKind>,
    /// Base models it holds.
    pub models: Vec<BaseModel>,
    /// Its software version, for people.
    pub software: String,
}

impl TryFrom<v1::RegisterRequest> for Registration {
    type Error = Refusal;

    fn try_from(wire: v1::RegisterRequest) -> Result<Self, Refusal> {
        let theirs = wire.protocol_version;
        if theirs != PROTOCOL_VERSION {
            let message = format!(
                "the worker speaks protocol version {theirs}; accepted is {PROTOCOL_VERSION}; run the same release of \
                 worker and coordinator"
            );
            return Err(Refusal::new(ErrorCode::VersionMismatch, message));
        }
        Ok(Self {
            worker: text("worker", wire.worker, 1..=200)?,
            incarnation: wire.incarnation.parse()?,
            kinds: kinds(wire.kinds, wire.previews)?,
            models: each(count("models", wire.models, 0..=100)?)?,
            software: text("software", wire.software, 0..=200)?,
        })
    }
}

fn kinds(wire: Vec<i32>, previews: bool) -> Result<Vec<TaskKind>, Refusal> {
    let kinds = count("kinds", wire, 1..=TaskKind::ALL.len())?.into_iter().map(TaskKind::decode);
    kinds.chain(previews.then_some(Ok(TaskKind::Preview))).collect()
}

/// Kinds of tasks as requests name them: a list, and whether previews are among them, which releases before those do not know as a kind.
pub fn wire_kinds(kinds: &[TaskKind]) -> (Vec<i32>, bool) {
    let named = kinds.iter().filter(|kind| **kind != TaskKind::Preview).map(|kind| kind.encode());
    (named.collect(), kinds.contains(&TaskKind::Preview))
}

/// A base model as planning needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseModel {
    /// What it is told apart by.
    pub digest: ModelDigest,
    /// Folder name, for people.
    pub name: String,
    /// What specs are resolved with.
    pub facts: ModelFacts,
}

impl TryFrom<v1::BaseModel> for BaseModel {
    type Error = Refusal;

    fn try_from(wire: v1::BaseModel) -> Result<Self, Refusal> {
        let facts = ModelFacts {
            native_size: within("model.native_size", wire.native_size, 8..=4096)?,
            factor: within("model.factor", wire.factor, 1..=64)?,
        };
        Ok(Self { digest: wire.digest.parse()?, name: text("model.name", wire.name, 0..=200)?, facts })
    }
}

impl From<BaseModel> for v1::BaseModel {
    fn from(model: BaseModel) -> Self {
        let ModelFacts { native_size, factor } = model.facts;
        Self { digest: model.digest.to_string(), name: model.name, native_size, factor }
    }
}

/// A worker with free slots waits for tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseAsk {
    /// Who asks.
    pub incarnation: Incarnation,
    /// Kinds with free capacity; at least one.
    pub kinds: Vec<TaskKind>,
    /// Tasks at most, 1 to 1,000.
    pub capacity: usize,
    /// Answer empty after this long, at most 30 s.
    pub wait: Duration,
}

impl TryFrom<v1::LeaseRequest> for LeaseAsk {
    type Error = Refusal;

    fn try_from(wire: v1::LeaseRequest) -> Result<Self, Refusal> {
        Ok(Self {
            incarnation: wire.incarnation.parse()?,
            kinds: kinds(wire.kinds, wire.previews)?,
            capacity: within("capacity", wire.capacity, 1..=1000)? as usize,
            wait: Duration::from_millis(within("wait_ms", wire.wait_ms, 0..=30_000)?.into()),
        })
    }
}

/// A worker prolongs its leases.
#[derive(Clone, Debug, PartialEq)]
pub struct Renewals {
    /// Who prolongs.
    pub incarnation: Incarnation,
    /// The leases, each with its progress.
    pub renewals: Vec<Renewal>,
}

impl TryFrom<v1::RenewRequest> for Renewals {
    type Error = Refusal;

    fn try_from(wire: v1::RenewRequest) -> Result<Self, Refusal> {
        Ok(Self {
            incarnation: wire.incarnation.parse()?,
            renewals: each(count("renewals", wire.renewals, 0..=1000)?)?,
        })
    }
}

/// One lease to prolong.
#[derive(Clone, Debug, PartialEq)]
pub struct Renewal {
    /// The lease.
    pub lease: LeaseId,
    /// What happened since the last renewal that was answered.
    pub progress: Option<Progress>,
}

/// What happened under a lease since the last renewal that was answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// Of a train task.
    Train(TrainReport),
    /// Of a render task.
    Render {
        /// Avatars of this task that are finished.
        avatars_done: u32,
    },
}

impl TryFrom<v1::Renewal> for Renewal {
    type Error = Refusal;

    fn try_from(wire: v1::Renewal) -> Result<Self, Refusal> {
        let progress = match wire.progress {
            None => None,
            Some(v1::renewal::Progress::Train(report)) => Some(Progress::Train(report.try_into()?)),
            Some(v1::renewal::Progress::Render(v1::RenderReport { avatars_done })) => {
                Some(Progress::Render { avatars_done })
            }
        };
        Ok(Self { lease: LeaseId::decode(&wire.task_id, wire.fence)?, progress })
    }
}

/// What happened in a training since the last renewal that was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainReport {
    /// Steps done.
    pub step: u32,
    /// Over the last steps.
    pub steps_per_second: f32,
    /// Losses of the steps that end with `step`, in order; finite.
    pub losses: Vec<f32>,
    /// Measurements of the evaluation set.
    pub evaluations: Vec<Evaluation>,
    /// A checkpoint to commit.
    pub checkpoint: Option<Checkpoint>,
    /// Vectors to draw a preview with.
    pub preview: Option<Snapshot>,
}

impl TryFrom<v1::TrainReport> for TrainReport {
    type Error = Refusal;

    fn try_from(wire: v1::TrainReport) -> Result<Self, Refusal> {
        let losses = count("losses", wire.losses, 0..=wire.step as usize)?;
        Ok(Self {
            step: wire.step,
            steps_per_second: measure("steps_per_second", wire.steps_per_second)?,
            losses: losses.into_iter().map(|loss| measure("loss", loss)).collect::<Result<_, _>>()?,
            evaluations: each(wire.evaluations)?,
            checkpoint: wire.checkpoint.map(Checkpoint::try_from).transpose()?,
            preview: wire.preview.map(Snapshot::try_from).transpose()?,
        })
    }
}

/// One measurement of the fixed evaluation set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Steps done when it was measured.
    pub step: u32,
    /// Finite.
    pub loss: f32,
}

impl TryFrom<v1::Evaluation> for Evaluation {
    type Error = Refusal;

    fn try_from(wire: v1::Evaluation) -> Result<Self, Refusal> {
        Ok(Self { step: wire.step, loss: measure("evaluation.loss", wire.loss)? })
    }
}

/// A worker has finished a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Who finished it.
    pub incarnation: Incarnation,
    /// Under which lease.
    pub lease: LeaseId,
    /// What came out.
    pub result: TaskResult,
    /// What the user should know.
    pub warnings: Vec<v1::Warning>,
}

/// What a task gives.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskResult {
    /// Of a train task.
    Train {
        /// The finished embedding.
        embedding: ObjectRef,
        /// How training ended.
        outcome: Outcome,
        /// What was not yet reported.
        last: Option<Box<TrainReport>>,
    },
    /// Of a render task.
    Render {
        /// The finished avatars.
        avatars: Vec<Avatar>,
        /// Seconds of work.
        seconds: f64,
    },
    /// Of an assemble task.
    Assemble {
        /// Photos above, avatars below.
        contact_sheet: ObjectRef,
    },
    /// Of a preview task.
    Preview {
        /// What was drawn.
        picture: ObjectRef,
    },
}

/// How training ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Steps done.
    pub steps: u32,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// Evaluation loss before the first step.
    pub evaluation_loss_first: f32,
    /// Evaluation loss of the vectors kept.
    pub evaluation_loss_best: f32,
    /// The step the kept vectors are of.
    pub best_step: u32,
    /// Seconds of work, all attempts.
    pub seconds: f64,
}

impl TryFrom<v1::CompleteRequest> for Completion {
    type Error = Refusal;

    fn try_from(wire: v1::CompleteRequest) -> Result<Self, Refusal> {
        Ok(Self {
            incarnation: wire.incarnation.parse()?,
            lease: LeaseId::decode(&wire.task_id, wire.fence)?,
            result: present("result", wire.result)?.try_into()?,
            warnings: wire.warnings,
        })
    }
}

impl TryFrom<v1::complete_request::Result> for TaskResult {
    type Error = Refusal;

    fn try_from(wire: v1::complete_request::Result) -> Result<Self, Refusal> {
        use v1::complete_request::Result as Wire;
        Ok(match wire {
            Wire::Train(wire) => Self::Train {
                embedding: ObjectRef::decode("result.embedding", wire.embedding)?,
                outcome: present("result.outcome", wire.outcome)?.try_into()?,
                last: wire.last.map(TrainReport::try_from).transpose()?.map(Box::new),
            },
            Wire::Render(wire) => {
                Self::Render { avatars: each(wire.avatars)?, seconds: measure("result.seconds", wire.seconds)? }
            }
            Wire::Assemble(wire) => {
                Self::Assemble { contact_sheet: ObjectRef::decode("result.contact_sheet", wire.contact_sheet)? }
            }
            Wire::Preview(wire) => Self::Preview { picture: ObjectRef::decode("result.picture", wire.picture)? },
        })
    }
}

impl TryFrom<v1::TrainOutcome> for Outcome {
    type Error = Refusal;

    fn try_from(wire: v1::TrainOutcome) -> Result<Self, Refusal> {
        Ok(Self {
            steps: wire.steps,
            stop_reason: StopReason::decode(wire.stop_reason)?,
            evaluation_loss_first: measure("outcome.evaluation_loss_first", wire.evaluation_loss_first)?,
            evaluation_loss_best: measure("outcome.evaluation_loss_best", wire.evaluation_loss_best)?,
            best_step: within("outcome.best_step", wire.best_step, 0..=wire.steps)?,
            seconds: measure("outcome.seconds", wire.seconds)?,
        })
    }
}

/// A worker could not finish a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Who tried.
    pub incarnation: Incarnation,
    /// Under which lease.
    pub lease: LeaseId,
    /// Why it failed.
    pub error: Refusal,
    /// Whether another try may help.
    pub retry: bool,
}

impl TryFrom<v1::FailRequest> for Failure {
    type Error = Refusal;

    fn try_from(wire: v1::FailRequest) -> Result<Self, Refusal> {
        Ok(Self {
            incarnation: wire.incarnation.parse()?,
            lease: LeaseId::decode(&wire.task_id, wire.fence)?,
            error: present("error", wire.error)?.into(),
            retry: wire.retry,
        })
    }
}

/// A worker gives a task back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Who held it.
    pub incarnation: Incarnation,
    /// Under which lease.
    pub lease: LeaseId,
}

impl TryFrom<v1::ReleaseRequest> for Release {
    type Error = Refusal;

    fn try_from(wire: v1::ReleaseRequest) -> Result<Self, Refusal> {
        Ok(Self { incarnation: wire.incarnation.parse()?, lease: LeaseId::decode(&wire.task_id, wire.fence)? })
    }
}
