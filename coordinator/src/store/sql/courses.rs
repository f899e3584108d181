//! Loading a subject's way through a job, and saving what an event made of it.

use likeness_proto::v1;
use likeness_proto::{ErrorCode, JobId, Refusal, SubjectName, TaskId, TaskKind, TenantId};
use prost::Message;
use sqlx::{FromRow, Row as _};

use super::rows::{known, parsed, record};
use super::{Connection, Result, Row, Writing, dialect};
use crate::clock::Timestamp;
use crate::lifecycle::{Course, Effect, JobState, Lease, SubjectState, Task, TaskState};
use crate::store::{Signal, StoreError};

/// Numbers of task states in the `tasks` table; partial indexes name 1 and 2.
mod number {
    pub(super) const WAITING: i32 = 0;
    pub(super) const READY: i32 = 1;
    pub(super) const LEASED: i32 = 2;
    pub(super) const DONE: i32 = 3;
    pub(super) const FAILED: i32 = 4;
    pub(super) const DEAD: i32 = 5;
    pub(super) const CANCELLED: i32 = 6;
}

/// A subject of a job of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) struct Place {
    pub(in crate::store) tenant: TenantId,
    pub(in crate::store) job: JobId,
    pub(in crate::store) subject: SubjectName,
}

impl FromRow<'_, Row> for Place {
    fn from_row(row: &Row) -> std::result::Result<Self, sqlx::Error> {
        let decode = |error: StoreError| sqlx::Error::Decode(error.to_string().into());
        Ok(Self {
            tenant: parsed("tenant", row.try_get("tenant")?).map_err(decode)?,
            job: parsed("job", row.try_get("job")?).map_err(decode)?,
            subject: parsed("subject", row.try_get("subject")?).map_err(decode)?,
        })
    }
}

/// Where a task belongs.
pub(super) async fn locate(tx: &mut Connection, task: TaskId) -> Result<Option<Place>> {
    let place = sqlx::query_as("SELECT tenant, job, subject FROM tasks WHERE id = $1");
    Ok(place.bind(task.to_string()).fetch_optional(tx).await?)
}

pub(super) async fn load(w: &mut Writing, place: &Place) -> Result<Course> {
    let rows = sqlx::query(
        "SELECT id, kind, state, grants, strikes, holder, lease_ends FROM tasks
         WHERE tenant = $1 AND job = $2 AND subject = $3 ORDER BY position",
    )
    .bind(place.tenant.as_str())
    .bind(place.job.to_string())
    .bind(place.subject.as_str())
    .fetch_all(&mut *w.tx)
    .await?;
    let tasks = rows.iter().map(task).collect::<Result<_>>()?;
    Ok(Course { tasks, attempts: w.policy.attempts })
}

fn task(row: &Row) -> Result<Task> {
    let kind = TaskKind::decode(row.try_get("kind")?).map_err(|error| StoreError::Record(error.message))?;
    Ok(Task {
        id: parsed("tasks.id", row.try_get("id")?)?,
        kind,
        state: task_state(row)?,
        grants: row.try_get::<i64, _>("grants")? as u64,
        strikes: known("tasks.strikes", u32::try_from(row.try_get::<i64, _>("strikes")?).ok())?,
    })
}

fn task_state(row: &Row) -> Result<TaskState> {
    let state = match row.try_get::<i32, _>("state")? {
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
pub(super) fn first_state(ready: bool) -> i32 {
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
    w.touch(&place.tenant, place.job);
    Ok(())
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
    if matches!(task.state, TaskState::Ready) {
        w.ready(&place.tenant, place.job, task.kind, id);
    }
    if !matches!(task.state, TaskState::Leased(_)) {
        w.freed.insert(place.tenant.clone());
    }
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
        "UPDATE tasks SET state = $1, grants = $2, strikes = $3, holder = $4, lease_ends = $5,
             drawn = CASE WHEN $6 THEN drawn ELSE 0 END, ready_at = coalesce($7, ready_at)
         WHERE tenant = $8 AND id = $9",
    )
    .bind(state)
    .bind(task.grants as i64)
    .bind(i64::from(task.strikes))
    .bind(lease.map(|lease| lease.holder.to_string()))
    .bind(lease.map(|lease| lease.until.millis()))
    .bind(lease.is_some())
    .bind(matches!(task.state, TaskState::Ready).then_some(w.now.millis()))
    .bind(place.tenant.as_str())
    .bind(id.to_string())
    .execute(&mut *w.tx)
    .await?;
    Ok(())
}

/// Remembers the error of a task's last try.
pub(super) async fn save_error(w: &mut Writing, place: &Place, task: TaskId, error: &Refusal) -> Result<()> {
    sqlx::query("UPDATE tasks SET error = $1 WHERE tenant = $2 AND id = $3")
        .bind(v1::ErrorDetail::from(error.clone()).encode_to_vec())
        .bind(place.tenant.as_str())
        .bind(task.to_string())
        .execute(&mut *w.tx)
        .await?;
    Ok(())
}

pub(super) async fn progress(tx: &mut Connection, place: &Place) -> Result<v1::SubjectProgress> {
    let stored: Vec<u8> =
        sqlx::query_scalar("SELECT record FROM job_subjects WHERE tenant = $1 AND job = $2 AND subject = $3")
            .bind(place.tenant.as_str())
            .bind(place.job.to_string())
            .bind(place.subject.as_str())
            .fetch_one(tx)
            .await?;
    record(&stored)
}

pub(super) async fn save_progress(w: &mut Writing, place: &Place, progress: &v1::SubjectProgress) -> Result<()> {
    sqlx::query("UPDATE job_subjects SET state = $1, record = $2 WHERE tenant = $3 AND job = $4 AND subject = $5")
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
    let position: i64 = sqlx::query_scalar(
        "DELETE FROM job_subjects WHERE tenant = $1 AND job = $2 AND subject = $3 RETURNING position",
    )
    .bind(place.tenant.as_str())
    .bind(place.job.to_string())
    .bind(place.subject.as_str())
    .fetch_one(&mut *w.tx)
    .await?;
    sqlx::query(
        "INSERT INTO job_subjects (tenant, job, subject, position, state, forgotten, record)
         VALUES ($1, $2, $3, $4, $5, TRUE, $6)",
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

pub(super) async fn subject_state(tx: &mut Connection, place: &Place) -> Result<SubjectState> {
    let state: i32 =
        sqlx::query_scalar("SELECT state FROM job_subjects WHERE tenant = $1 AND job = $2 AND subject = $3")
            .bind(place.tenant.as_str())
            .bind(place.job.to_string())
            .bind(place.subject.as_str())
            .fetch_one(tx)
            .await?;
    known("job_subjects.state", SubjectState::decode(state))
}

/// Brings jobs up to date whose subjects the transaction changed. Once and last: so transactions lock jobs in one order, after
/// everything else, and none sees another's half.
pub(super) async fn roll_up(w: &mut Writing) -> Result<()> {
    for (tenant, job) in std::mem::take(&mut w.touched) {
        dialect::lock_job(&mut w.tx, &tenant, job).await?;
        roll_up_one(w, &tenant, job).await?;
    }
    Ok(())
}

/// The job's state, its end, and a new revision. An ended job stays as it ended.
async fn roll_up_one(w: &mut Writing, tenant: &TenantId, job: JobId) -> Result<()> {
    let states: Vec<i32> = sqlx::query_scalar("SELECT state FROM job_subjects WHERE tenant = $1 AND job = $2")
        .bind(tenant.as_str())
        .bind(job.to_string())
        .fetch_all(&mut *w.tx)
        .await?;
    let states = states.into_iter().map(|state| known("job_subjects.state", SubjectState::decode(state)));
    let state = JobState::of(&states.collect::<Result<Vec<_>>>()?);
    let ended_at: Option<i64> = sqlx::query_scalar(
        "UPDATE jobs SET revision = revision + 1, state = CASE WHEN ended_at IS NULL THEN $1 ELSE state END,
             ended_at = coalesce(ended_at, CASE WHEN $2 THEN $3 END)
         WHERE tenant = $4 AND id = $5 RETURNING ended_at",
    )
    .bind(state.encode())
    .bind(state.ended())
    .bind(w.now.millis())
    .bind(tenant.as_str())
    .bind(job.to_string())
    .fetch_one(&mut *w.tx)
    .await?;
    if ended_at == Some(w.now.millis()) {
        w.tally.jobs.push(state);
    }
    w.tell(Signal::Job(job));
    Ok(())
}

/// The error that a task ends its subject with, if it does.
pub(super) fn end_error(course: &Course, task: TaskId, error: &Refusal) -> Option<v1::ErrorDetail> {
    let task = course.tasks.iter().find(|candidate| candidate.id == task)?;
    match task.state {
        TaskState::Failed | TaskState::Dead if task.kind == TaskKind::Preview => None,
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
