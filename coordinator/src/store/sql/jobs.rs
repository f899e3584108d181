//! Reading jobs, and cancelling them.

use std::collections::BTreeMap;

use likeness_proto::v1;
use likeness_proto::{ErrorCode, JobId, Refusal, TenantId};

use super::courses::{self, Place};
use super::rows::{known, parsed, record};
use super::{Connection, Result, Writing, audit, dialect};
use crate::audit::{Action, Actor, Note};
use crate::clock::Timestamp;
use crate::lifecycle::JobState;
use crate::store::{Reach, refusals};

pub(super) async fn get(tx: &mut Connection, tenant: &TenantId, id: JobId) -> Result<v1::Job> {
    let row: Option<JobRow> = sqlx::query_as(
        "SELECT id, state, revision, submitted_at, ended_at, record FROM jobs WHERE tenant = $1 AND id = $2",
    )
    .bind(tenant.as_str())
    .bind(id.to_string())
    .fetch_optional(&mut *tx)
    .await?;
    let row = row.ok_or_else(|| refusals::unknown_job(id))?;
    whole(tx, tenant, row).await
}

pub(super) async fn list(tx: &mut Connection, tenant: &TenantId, limit: u32) -> Result<Vec<v1::Job>> {
    let rows: Vec<JobRow> = sqlx::query_as(
        "SELECT id, state, revision, submitted_at, ended_at, record FROM jobs WHERE tenant = $1
         ORDER BY submitted_at DESC, id DESC LIMIT $2",
    )
    .bind(tenant.as_str())
    .bind(i64::from(limit))
    .fetch_all(&mut *tx)
    .await?;
    let mut jobs = Vec::with_capacity(rows.len());
    for row in rows {
        jobs.push(whole(tx, tenant, row).await?);
    }
    Ok(jobs)
}

#[derive(sqlx::FromRow)]
struct JobRow {
    id: String,
    state: i32,
    revision: i64,
    submitted_at: i64,
    ended_at: Option<i64>,
    record: Vec<u8>,
}

async fn whole(tx: &mut Connection, tenant: &TenantId, row: JobRow) -> Result<v1::Job> {
    let state = known("jobs.state", JobState::decode(row.state))?;
    let subjects = subjects(tx, tenant, &row.id).await?;
    Ok(v1::Job {
        state: state.encode(),
        submitted_at: Some(Timestamp::from_millis(row.submitted_at).into()),
        ended_at: row.ended_at.map(|at| Timestamp::from_millis(at).into()),
        revision: row.revision as u64,
        subjects,
        id: row.id,
        ..record(&row.record)?
    })
}

async fn subjects(tx: &mut Connection, tenant: &TenantId, job: &str) -> Result<Vec<v1::SubjectProgress>> {
    let (mut avatars, drawn) = (avatars(tx, tenant, job).await?, drawn(tx, tenant, job).await?);
    let rows: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT record FROM job_subjects WHERE tenant = $1 AND job = $2 ORDER BY position")
            .bind(tenant.as_str())
            .bind(job)
            .fetch_all(tx)
            .await?;
    let whole = |stored: Vec<u8>| {
        let mut progress: v1::SubjectProgress = record(&stored)?;
        progress.avatars = avatars.remove(&progress.subject).unwrap_or_default();
        if let Some(rendering) = &mut progress.rendering {
            let more = drawn.get(&progress.subject).copied().unwrap_or_default();
            rendering.avatars_done = progress.avatars.len() as u32 + more as u32;
        }
        Ok(progress)
    };
    rows.into_iter().map(whole).collect()
}

/// Avatars of tasks that go on, as far as their workers have told, by subject. Asked for the whole job at once: for each subject by itself,
/// a planner may walk over all tasks of the tenant each time.
async fn drawn(tx: &mut Connection, tenant: &TenantId, job: &str) -> Result<BTreeMap<String, i64>> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT subject, CAST(sum(drawn) AS BIGINT) FROM tasks WHERE tenant = $1 AND job = $2 AND drawn > 0 GROUP BY subject",
    )
    .bind(tenant.as_str())
    .bind(job)
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().collect())
}

/// A job's finished avatars by subject, each subject's in order.
async fn avatars(tx: &mut Connection, tenant: &TenantId, job: &str) -> Result<BTreeMap<String, Vec<v1::Avatar>>> {
    let rows: Vec<(String, Vec<u8>)> =
        sqlx::query_as("SELECT subject, record FROM avatars WHERE tenant = $1 AND job = $2 ORDER BY subject, position")
            .bind(tenant.as_str())
            .bind(job)
            .fetch_all(tx)
            .await?;
    let mut avatars = BTreeMap::<_, Vec<_>>::new();
    for (subject, stored) in rows {
        avatars.entry(subject).or_default().push(record(&stored)?);
    }
    Ok(avatars)
}

pub(super) async fn cancel(w: &mut Writing, tenant: &TenantId, job: JobId, by: &Actor) -> Result<v1::Job> {
    let before = get(&mut w.tx, tenant, job).await?;
    if known("jobs.state", JobState::decode(before.state))?.ended() {
        let state = before.state().as_str_name().trim_start_matches("JOB_STATE_").to_lowercase();
        let message = format!("job {job} has ended ({state}); only a job that goes on can be cancelled");
        return Err(Refusal::new(ErrorCode::JobFinished, message).into());
    }
    let place = |subject: &v1::SubjectProgress| {
        let subject = parsed("job_subjects.subject", &subject.subject)?;
        Ok(Place { tenant: tenant.clone(), job, subject })
    };
    let places = before.subjects.iter().map(place).collect::<Result<Vec<_>>>()?;
    dialect::lock_courses(&mut w.tx, &places, Reach::Siblings).await?;
    for place in places {
        let mut course = courses::load(w, &place).await?;
        let effects = course.cancel(w.now);
        if !effects.is_empty() {
            let mut progress = courses::progress(&mut w.tx, &place).await?;
            courses::settle(w, &place, &course, &effects, &mut progress).await?;
        }
    }
    courses::roll_up(w).await?;
    let cancelled = get(&mut w.tx, tenant, job).await?;
    let note = Note { by, tenant: Some(tenant), action: Action::JobCancelled, target: w.policy.blind.job(job) };
    audit::append(w, note).await?;
    Ok(cancelled)
}
