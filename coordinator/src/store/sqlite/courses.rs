//! Loading a subject's way through a job, and saving what an event made of it.

use likeness_proto::v1;
use likeness_proto::{ErrorCode, JobId, Refusal, SubjectName, TaskId, TaskKind, TenantId};
use prost::Message;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};

use super::rows::{known, parsed, record};
use super::{Result, Writing};
use crate::clock::Timestamp;
use crate::lifecycle::{Course, Effect, JobState, Lease, SubjectState, Task, TaskState};
use crate::store::{Signal, StoreError};

/// Numbers of task states in the `tasks` table; partial indexes name 1 and 2.
mod number {
    pub(super) const WAITING: i64 = 0;
    pub(super) const READY: i64 = 1;
    pub(super) const LEASED: i64 = 2;
    pub(super) const DONE: i64 = 3;
    pub(super) const FAILED: i64 = 4;
    pub(super) const DEAD: i64 = 5;
    pub(super) const CANCELLED: i64 = 6;
}

/// A subject of a job of a tenant.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) tenant: TenantId,
    pub(super) job: JobId,
    pub(super) subject: SubjectName,
}

impl FromRow<'_, SqliteRow> for Place {
    fn from_row(row: &SqliteRow) -> std::result::Result<Self, sqlx::Error> {
        let decode = |error: StoreError| sqlx::Error::Decode(error.to_string().into());
        Ok(Self {
            tenant: parsed("tenant", row.try_get("tenant")?).map_err(decode)?,
            job: parsed("job", row.try_get("job")?).map_err(decode)?,
            subject: parsed("subject", row.try_get("subject")?).map_err(decode)?,
        })
    }
}

/// Where a task belongs.
pub(super) async fn locate(tx: &mut SqliteConnection, task: TaskId) -> Result<Option<Place>> {
    let place = sqlx::query_as("SELECT tenant, job, subject FROM tasks WHERE id = ?");
    Ok(place.bind(task.to_string()).fetch_optional(tx).await?)
}

pub(super) async fn load(w: &mut Writing, place: &Place) -> Result<Course> {
    let rows = sqlx::query(
        "SELECT id, kind, state, grants, strikes, holder, lease_ends FROM tasks
         WHERE tenant = ? AND job = ? AND subject = ? ORDER BY position",
    )
    .bind(place.tenant.as_str())
    .bind(place.job.to_string())
    .bind(place.subject.as_str())
    .fetch_all(&mut *w.tx)
    .await?;
    let tasks = rows.iter().map(task).collect::<Result<_>>()?;
    Ok(Course { tasks, attempts: w.policy.attempts })
}

fn task(row: &SqliteRow) -> Result<Task> {
    let kind = TaskKind::decode(row.try_get("kind")?).map_err(|error| StoreError::Record(error.message))?;
    Ok(Task {
        id: parsed("tasks.id", row.try_get("id")?)?,
        kind,
        state: task_state(row)?,
        grants: row.try_get::<i64, _>("grants")? as u64,
        strikes: row.try_get("strikes")?,
    })
}

fn task_state(row: &SqliteRow) -> Result<TaskState> {
    let state = match row.try_get::<i64, _>("state")? {
        number::WAITING => Some(TaskState::Waiting),
        number::READY => Some(TaskState::Ready),
        number::LEASED => Some(TaskState::Leased(Lease {
            holder: parsed("tasks.holder", row.try_get("holder")?)?,
            until: Timestamp::from_millis(row.try_get("lease_ends")?),
        })),
        number::DONE => Some(TaskState::Done),
        number::FAILED => Some(TaskState::Failed),
        number::DEAD => Some(TaskState::Dead),
        number::CANCELLED => Some(TaskState::Cancelled),
        _unknown => None,
    };
    known("tasks.state", state)
}

/// The number of a state that new tasks begin with.
pub(super) fn first_state(ready: bool) -> i64 {
    if ready { number::READY } else { number::WAITING }
}

/// Saves what the effects name, and what follows for the subject and its job.
pub(super) async fn settle(
    w: &mut Writing,
    place: &Place,
    course: &Course,
    effects: &[Effect],
    progress: &mut v1::SubjectProgress,
) -> Result<()> {
    save(w, place, course, effects).await?;
    progress.state = course.state().encode();
    save_progress(w, place, progress).await?;
    roll_up(w, &place.tenant, place.job).await
}

/// Saves what the effects name; enough for events that nobody watches, as a renewal.
pub(super) async fn save(w: &mut Writing, place: &Place, course: &Course, effects: &[Effect]) -> Result<()> {
    for effect in effects {
        match effect {
            Effect::Save(id) => save_task(w, place, course, *id).await?,
            Effect::Wake(_) => w.tell(Signal::Ready),
            // Publishing is the business of whoever brought the result; an end shows in the state below.
            Effect::Publish(_) | Effect::Ended(_) => {}
        }
    }
    Ok(())
}

async fn save_task(w: &mut Writing, place: &Place, course: &Course, id: TaskId) -> Result<()> {
    let Some(task) = course.tasks.iter().find(|task| task.id == id) else { return Ok(()) };
    let (state, lease) = match task.state {
        TaskState::Waiting => (number::WAITING, None),
        TaskState::Ready => (number::READY, None),
        TaskState::Leased(lease) => (number::LEASED, Some(lease)),
        TaskState::Done => (number::DONE, None),
        TaskState::Failed => (number::FAILED, None),
        TaskState::Dead => (number::DEAD, None),
        TaskState::Cancelled => (number::CANCELLED, None),
    };
    // Avatars under way count only as long as somebody draws them.
    sqlx::query(
        "UPDATE tasks SET state = ?, grants = ?, strikes = ?, holder = ?, lease_ends = ?, drawn = iif(?, drawn, 0)
         WHERE tenant = ? AND id = ?",
    )
    .bind(state)
    .bind(task.grants as i64)
    .bind(task.strikes)
    .bind(lease.map(|lease| lease.holder.to_string()))
    .bind(lease.map(|lease| lease.until.millis()))
    .bind(lease.is_some())
    .bind(place.tenant.as_str())
    .bind(id.to_string())
    .execute(&mut *w.tx)
    .await?;
    Ok(())
}

/// Remembers the error of a task's last try.
pub(super) async fn save_error(w: &mut Writing, place: &Place, task: TaskId, error: &Refusal) -> Result<()> {
    sqlx::query("UPDATE tasks SET error = ? WHERE tenant = ? AND id = ?")
        .bind(v1::ErrorDetail::from(error.clone()).encode_to_vec())
        .bind(place.tenant.as_str())
        .bind(task.to_string())
        .execute(&mut *w.tx)
        .await?;
    Ok(())
}

pub(super) async fn progress(tx: &mut SqliteConnection, place: &Place) -> Result<v1::SubjectProgress> {
    let stored: Vec<u8> =
        sqlx::query_scalar("SELECT record FROM job_subjects WHERE tenant = ? AND job = ? AND subject = ?")
            .bind(place.tenant.as_str())
            .bind(place.job.to_string())
            .bind(place.subject.as_str())
            .fetch_one(tx)
            .await?;
    record(&stored)
}

pub(super) async fn save_progress(w: &mut Writing, place: &Place, progress: &v1::SubjectProgress) -> Result<()> {
    sqlx::query("UPDATE job_subjects SET state = ?, record = ? WHERE tenant = ? AND job = ? AND subject = ?")
        .bind(progress.state)
        .bind(progress.encode_to_vec())
        .bind(place.tenant.as_str())
        .bind(place.job.to_string())
        .bind(place.subject.as_str())
        .execute(&mut *w.tx)
        .await?;
    Ok(())
}

/// Leaves only a stub of a forgotten subject; tasks, avatars, losses and evaluations go with the old row.
pub(super) async fn replace(w: &mut Writing, place: &Place, stub: &v1::SubjectProgress) -> Result<()> {
    let position: i64 =
        sqlx::query_scalar("DELETE FROM job_subjects WHERE tenant = ? AND job = ? AND subject = ? RETURNING position")
            .bind(place.tenant.as_str())
            .bind(place.job.to_string())
            .bind(place.subject.as_str())
            .fetch_one(&mut *w.tx)
            .await?;
    sqlx::query(
        "INSERT INTO job_subjects (tenant, job, subject, position, state, forgotten, record) VALUES (?, ?, ?, ?, ?, 1, ?)",
    )
    .bind(place.tenant.as_str())
    .bind(place.job.to_string())
    .bind(place.subject.as_str())
    .bind(position)
    .bind(stub.state)
    .bind(stub.encode_to_vec())
    .execute(&mut *w.tx)
    .await?;
    Ok(())
}

pub(super) async fn subject_state(tx: &mut SqliteConnection, place: &Place) -> Result<SubjectState> {
    let state: i32 = sqlx::query_scalar("SELECT state FROM job_subjects WHERE tenant = ? AND job = ? AND subject = ?")
        .bind(place.tenant.as_str())
        .bind(place.job.to_string())
        .bind(place.subject.as_str())
        .fetch_one(tx)
        .await?;
    known("job_subjects.state", SubjectState::decode(state))
}

/// Brings a job up to date with its subjects: its state, its end, and a new revision. An ended job stays as it ended.
pub(super) async fn roll_up(w: &mut Writing, tenant: &TenantId, job: JobId) -> Result<()> {
    let states: Vec<i32> = sqlx::query_scalar("SELECT state FROM job_subjects WHERE tenant = ? AND job = ?")
        .bind(tenant.as_str())
        .bind(job.to_string())
        .fetch_all(&mut *w.tx)
        .await?;
    let states = states.into_iter().map(|state| known("job_subjects.state", SubjectState::decode(state)));
    let state = JobState::of(&states.collect::<Result<Vec<_>>>()?);
    sqlx::query(
        "UPDATE jobs SET revision = revision + 1, state = iif(ended_at IS NULL, ?1, state),
             ended_at = coalesce(ended_at, iif(?2, ?3, NULL))
         WHERE tenant = ?4 AND id = ?5",
    )
    .bind(state.encode())
    .bind(state.ended())
    .bind(w.now.millis())
    .bind(tenant.as_str())
    .bind(job.to_string())
    .execute(&mut *w.tx)
    .await?;
    w.tell(Signal::Job(job));
    Ok(())
}

/// The error that a task ends its subject with, if it does.
pub(super) fn end_error(course: &Course, task: TaskId, error: &Refusal) -> Option<v1::ErrorDetail> {
    let task = course.tasks.iter().find(|candidate| candidate.id == task)?;
    match task.state {
        TaskState::Failed => Some(error.clone().into()),
        TaskState::Dead => {
            let message = format!("{} task gave up after {} tries: {}", task.kind, task.strikes, error.message);
            Some(Refusal::new(error.code, message).into())
        }
        TaskState::Waiting | TaskState::Ready | TaskState::Leased(_) | TaskState::Done | TaskState::Cancelled => None,
    }
}

/// What is said of a try whose worker fell silent.
pub(super) fn lost() -> Refusal {
    Refusal::new(ErrorCode::WorkerLost, "its worker stopped renewing the lease")
}
