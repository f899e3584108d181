//! Training and rendering as the scheduler sees them: time that passes, objects that are read and published, a stop that is heeded.
//! What is made is a function of what was asked for, so that it can be told whether it is right.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use likeness_proto::v1;
use likeness_proto::{
    AssembleWork, Assignment, CONTACT_SHEET_NAME, EMBEDDING_NAME, ErrorCode, Grant, JobId, LeaseId, ObjectRef,
    PreviewWork, RenderWork, SubjectName, TaskKind, TrainWork, avatar_name, checkpoint_name, snapshot_name,
};
use likeness_worker::{BoxFuture, Done, Stop, Task, Work, WorkError};
use tokio::time::sleep;

use super::chance::{Chance, Kind};

pub(super) const STEPS: u32 = 12;
const CHECKPOINT_EVERY: u32 = 4;
const PREVIEW_EVERY: u32 = 3;

pub(super) fn embedding(job: &str, subject: &str) -> Vec<u8> {
    format!("embedding of {subject} by {job}").into_bytes()
}

fn checkpoint(job: &JobId, subject: &SubjectName, step: u32) -> Vec<u8> {
    format!("{subject} by {job} after {step} steps").into_bytes()
}

fn snapshot(job: &JobId, subject: &SubjectName, step: u32) -> Vec<u8> {
    format!("unfinished {subject} by {job} after {step} steps").into_bytes()
}

pub(super) fn preview(job: &str, subject: &str, step: u32) -> Vec<u8> {
    format!("preview of {subject} by {job} after {step} steps").into_bytes()
}

pub(super) fn avatar(job: &str, subject: &str, prompt: &str, seed: u64) -> Vec<u8> {
    format!("{prompt} of {subject} by {job} from {seed}").into_bytes()
}

pub(super) fn sheet(job: &str, subject: &str) -> Vec<u8> {
    format!("sheet of {subject} by {job}").into_bytes()
}

/// What workers have seen that must not be.
#[derive(Default)]
pub(super) struct Findings {
    begun: Mutex<BTreeSet<LeaseId>>,
    wrong: Mutex<Vec<String>>,
}

impl Findings {
    fn begun(&self, lease: LeaseId) {
        if !self.begun.lock().unwrap_or_else(PoisonError::into_inner).insert(lease) {
            self.wrong(format!("fence {} of task {} was granted twice", lease.fence, lease.task));
        }
    }

    pub(super) fn wrong(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Stands in for a trainer or a sampler.
pub(super) struct StandIn {
    pub(super) kinds: Vec<TaskKind>,
    pub(super) chance: Arc<Chance>,
    pub(super) findings: Arc<Findings>,
}

impl Work for StandIn {
    fn kinds(&self) -> &[TaskKind] {
        &self.kinds
    }

    fn run(&self, grant: Grant, task: Task) -> BoxFuture<'_, Result<Done, WorkError>> {
        Box::pin(self.work(grant, task))
    }
}

impl StandIn {
    async fn work(&self, grant: Grant, task: Task) -> Result<Done, WorkError> {
        self.findings.begun(grant.lease);
        self.chance.note(format_args!("begun: fence {} of {}", grant.lease.fence, grant.lease.task));
        if self.chance.strikes(Kind::WorkFailed, 10) {
            let message = "the device is gone".to_owned();
            return Err(WorkError::Failed { code: ErrorCode::Internal, message, retry: true });
        }
        let is_deaf = self.chance.strikes(Kind::WorkDeaf, 10);
        let attempt = Attempt { stand_in: self, is_deaf, grant: &grant, task: &task };
        let result = match &grant.work {
            Assignment::Train(work) => attempt.train(work).await?,
            Assignment::Render(work) => attempt.render(work).await?,
            Assignment::Assemble(work) => attempt.assemble(work).await?,
            Assignment::Preview(_) if self.chance.one_in(4) => {
                let message = "the vectors are no good".to_owned();
                return Err(WorkError::Failed {
                    code: ErrorCode::ModelMismatch,
                    message,
                    retry: self.chance.one_in(2),
                });
            }
            Assignment::Preview(work) => attempt.preview(work).await?,
        };
        Ok(Done { result, warnings: vec![] })
    }
}

struct Attempt<'a> {
    stand_in: &'a StandIn,
    is_deaf: bool,
    grant: &'a Grant,
    task: &'a Task,
}

impl Attempt<'_> {
    /// Lets time pass; tells whether to stop.
    async fn step(&self) -> Option<Stop> {
        sleep(self.stand_in.chance.millis(50, 250)).await;
        self.task.stop().requested().filter(|_| !self.is_deaf)
    }

    async fn read(&self, object: &ObjectRef, want: &[u8]) -> Result<(), WorkError> {
        let got = self.task.bucket().get(object).await?;
        if got != want {
            self.stand_in.findings.wrong(format!("{} holds {:?}", object.key, String::from_utf8_lossy(&got)));
        }
        Ok(())
    }

    async fn save(&self, step: u32) -> Result<(), WorkError> {
        let bytes = checkpoint(&self.grant.job, &self.grant.subject, step);
        let object = self.task.bucket().put(&checkpoint_name(step), bytes).await?;
        let saved = self.task.commit_checkpoint(v1::Checkpoint { object: Some(object.into()), step });
        saved.await.map_err(|_stop| WorkError::Stopped)
    }

    /// As a trainer does it: what fails here fails nothing.
    async fn tell_preview(&self, step: u32) {
        let bytes = snapshot(&self.grant.job, &self.grant.subject, step);
        if let Ok(object) = self.task.bucket().put(&snapshot_name(step), bytes).await {
            self.task.preview(v1::Snapshot { embedding: Some(object.into()), step });
        }
    }

    async fn train(&self, work: &TrainWork) -> Result<v1::complete_request::Result, WorkError> {
        for photo in &work.photos {
            self.task.bucket().get(&photo.object).await?;
        }
        let begin = work.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step);
        if let Some(saved) = &work.checkpoint {
            self.read(&saved.object, &checkpoint(&self.grant.job, &self.grant.subject, saved.step)).await?;
        }
        for step in begin + 1..=STEPS {
            let stop = self.step().await;
            if stop.is_some_and(Stop::is_final) {
                return Err(WorkError::Stopped);
            }
            let report = v1::TrainReport { step, losses: vec![step as f32], ..Default::default() };
            self.task.report(v1::renewal::Progress::Train(report));
            if step.is_multiple_of(PREVIEW_EVERY) {
                self.tell_preview(step).await;
            }
            if stop.is_some() || (step % CHECKPOINT_EVERY == 0 && step < STEPS) {
                self.save(step).await?;
            }
            if stop.is_some() {
                return Err(WorkError::Stopped);
            }
        }
        let bytes = embedding(&self.grant.job.to_string(), self.grant.subject.as_str());
        let object = self.task.bucket().put(EMBEDDING_NAME, bytes).await?;
        let outcome = v1::TrainOutcome { steps: STEPS, stop_reason: 1, ..Default::default() };
        let result = v1::TrainResult { embedding: Some(object.into()), outcome: Some(outcome), last: None };
        Ok(v1::complete_request::Result::Train(result))
    }

    async fn render(&self, work: &RenderWork) -> Result<v1::complete_request::Result, WorkError> {
        self.task.bucket().get(&work.embedding).await?;
        let mut avatars = Vec::new();
        for shot in &work.shots {
            if self.step().await.is_some() {
                return Err(WorkError::Stopped);
            }
            let bytes = avatar(&self.grant.job.to_string(), self.grant.subject.as_str(), &shot.prompt, shot.seed);
            let object = self.task.bucket().put(&avatar_name(shot.index), bytes).await?;
            let (prompt, seed, index) = (shot.prompt.clone(), shot.seed, shot.index);
            avatars.push(v1::Avatar { object: Some(object.into()), prompt, seed, index });
            let progress = v1::RenderReport { avatars_done: avatars.len() as u32 };
            self.task.report(v1::renewal::Progress::Render(progress));
        }
        Ok(v1::complete_request::Result::Render(v1::RenderResult { avatars, seconds: 1.0 }))
    }

    async fn preview(&self, work: &PreviewWork) -> Result<v1::complete_request::Result, WorkError> {
        self.read(&work.render.embedding, &snapshot(&self.grant.job, &self.grant.subject, work.step)).await?;
        if self.step().await.is_some() {
            return Err(WorkError::Stopped);
        }
        let bytes = preview(&self.grant.job.to_string(), self.grant.subject.as_str(), work.step);
        let object = self.task.bucket().put(&avatar_name(0), bytes).await?;
        Ok(v1::complete_request::Result::Preview(v1::PreviewResult { picture: Some(object.into()) }))
    }

    async fn assemble(&self, work: &AssembleWork) -> Result<v1::complete_request::Result, WorkError> {
        let (job, subject) = (self.grant.job.to_string(), self.grant.subject.as_str());
        for drawn in &work.avatars {
            self.read(&drawn.object, &avatar(&job, subject, &drawn.prompt, drawn.seed)).await?;
        }
        if self.step().await.is_some() {
            return Err(WorkError::Stopped);
        }
        let object = self.task.bucket().put(CONTACT_SHEET_NAME, sheet(&job, subject)).await?;
        Ok(v1::complete_request::Result::Assemble(v1::AssembleResult { contact_sheet: Some(object.into()) }))
    }
}
