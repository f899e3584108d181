//! Forgetting. First the rows go and the work stops, in one transaction that also owes the sweep of the subject's
//! prefix; then the prefix is swept, at once and again later, when nobody can be writing under an old lease any more.
//! A sweep removes only what nothing known refers to, so it may happen at any time and does not touch a subject that was
//! put again since.
//!
//! A tombstone in the bucket tells of every forgetting, so that a restored backup of the store does not bring back what was forgotten after it
//! was taken. The sweep that the forgetting owes writes it, first of all: it is owed until then, and nobody is told of the erasure earlier.

use std::collections::BTreeSet;
use std::time::Duration;

use likeness_proto::v1;
use likeness_proto::{ObjectKey, ObjectKind, SubjectName, TenantId, kind_of};
use sqlx::Row as _;
use uuid::Uuid;

use super::courses::{self, Place};
use super::rows::parsed;
use super::{Connection, Result, Row, Writing, audit, dialect, subjects, upkeep};
use crate::audit::{Action, Actor, Note, Point};
use crate::clock::Timestamp;
use crate::lifecycle::SubjectState;
use crate::store::{Cause, Erasure, Forgotten, Reach, SWEEP_LIMIT, StoreError, Sweep, Tombstone, refusals};

/// How long after forgetting the last sweep comes: for processes that hung with a write half done.
const LAST_SWEEP: Duration = Duration::from_secs(60 * 60);

pub(super) async fn forget(
    w: &mut Writing,
    tenant: &TenantId,
    subject: &SubjectName,
    cause: &Cause,
) -> Result<Forgotten> {
    dialect::lock_subjects(&mut w.tx, &[(tenant.clone(), subject.clone())]).await?;
    if !is_given(w, tenant, subject, cause).await? {
        return Err(refusals::unknown_subject(subject).into());
    }
    let jobs = live_jobs(&mut w.tx, tenant, subject).await?;
    let place = |job: &String| {
        Ok(Place { tenant: tenant.clone(), job: parsed("job_subjects.job", job)?, subject: subject.clone() })
    };
    let places = jobs.iter().map(place).collect::<Result<Vec<_>>>()?;
    dialect::lock_courses(&mut w.tx, &places, Reach::Siblings).await?;
    for place in &places {
        leave_job(w, place).await?;
    }
    let statements = [
        "DELETE FROM subjects WHERE tenant = $1 AND name = $2",
        "DELETE FROM objects WHERE tenant = $1 AND subject = $2",
        "DELETE FROM uploads WHERE tenant = $1 AND subject = $2",
        "DELETE FROM erasures WHERE tenant = $1 AND subject = $2",
    ];
    for statement in statements {
        sqlx::query(statement).bind(tenant.as_str()).bind(subject.as_str()).execute(&mut *w.tx).await?;
    }
    for later in [w.policy.lease * 2, LAST_SWEEP] {
        owe(w, tenant, subject, w.now + later, None).await?;
    }
    courses::roll_up(w).await?;
    let entry = note(w, tenant, subject, cause).await?;
    let erasure = owe(w, tenant, subject, w.now, Some(Tombstone { at: w.now, entry })).await?;
    Ok(Forgotten { at: w.now, entry, jobs, erasure })
}

/// Whether there is a subject that is to be forgotten for this reason.
async fn is_given(w: &mut Writing, tenant: &TenantId, subject: &SubjectName, cause: &Cause) -> Result<bool> {
    match cause {
        Cause::Asked(_) => is_known(&mut w.tx, tenant, subject).await,
        Cause::Retention => upkeep::is_overdue(&mut w.tx, w.now, tenant, subject).await,
        Cause::Replay(forgotten) => {
            let stored = subjects::find(&mut w.tx, tenant, subject).await?;
            Ok(stored.is_some_and(|subject| subjects::stored_at(&subject) <= *forgotten))
        }
    }
}

async fn note(w: &mut Writing, tenant: &TenantId, subject: &SubjectName, cause: &Cause) -> Result<Point> {
    let coordinator = Actor::coordinator();
    let (action, by) = match cause {
        Cause::Asked(actor) => (Action::SubjectForgotten, actor),
        Cause::Retention => (Action::RetentionErased, &coordinator),
        Cause::Replay(_) => (Action::ErasureReplayed, &coordinator),
    };
    let target = w.policy.blind.subject(tenant, subject);
    audit::append(w, Note { by, tenant: Some(tenant), action, target }).await
}

/// Whether anything of the subject is left anywhere.
async fn is_known(tx: &mut Connection, tenant: &TenantId, subject: &SubjectName) -> Result<bool> {
    let known = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM subjects WHERE tenant = $1 AND name = $2)
             OR EXISTS (SELECT 1 FROM uploads WHERE tenant = $1 AND subject = $2)
             OR EXISTS (SELECT 1 FROM erasures WHERE tenant = $1 AND subject = $2 AND locked)
             OR EXISTS (SELECT 1 FROM job_subjects WHERE tenant = $1 AND subject = $2 AND NOT forgotten)",
    );
    Ok(known.bind(tenant.as_str()).bind(subject.as_str()).fetch_one(tx).await?)
}

async fn live_jobs(tx: &mut Connection, tenant: &TenantId, subject: &SubjectName) -> Result<Vec<String>> {
    let jobs = sqlx::query_scalar(
        "SELECT job FROM job_subjects WHERE tenant = $1 AND subject = $2 AND NOT forgotten ORDER BY job",
    );
    Ok(jobs.bind(tenant.as_str()).bind(subject.as_str()).fetch_all(tx).await?)
}

/// Takes the subject out of a job: its work stops, and of its results only the end is left.
async fn leave_job(w: &mut Writing, place: &Place) -> Result<()> {
    let state = match courses::subject_state(&mut w.tx, place).await? {
        ended if ended.ended() => ended,
        _live => SubjectState::Failed,
    };
    let progress = v1::SubjectProgress {
        subject: place.subject.to_string(),
        state: state.encode(),
        error: Some(refusals::forgotten(&place.subject).into()),
        ..Default::default()
    };
    // Avatars, losses and evaluations go with the row; tasks too, so that no report about them is heard again.
    courses::replace(w, place, &progress).await?;
    w.touch(&place.tenant, place.job);
    Ok(())
}

pub(super) async fn owe(
    w: &mut Writing,
    tenant: &TenantId,
    subject: &SubjectName,
    due: Timestamp,
    tombstone: Option<Tombstone>,
) -> Result<Erasure> {
    let (tenant, subject, locked) = (tenant.clone(), subject.clone(), tombstone.is_some());
    let erasure = Erasure { tenant, subject, id: Uuid::new_v4().to_string(), locked, tombstone };
    // Whoever forgets sweeps at once, and lets nobody in meanwhile.
    let held = if locked { w.now + SWEEP_LIMIT } else { w.now };
    let insert = sqlx::query(
        "INSERT INTO erasures (tenant, subject, id, due, locked, held, entry) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    );
    insert
        .bind(erasure.tenant.as_str())
        .bind(erasure.subject.as_str())
        .bind(&erasure.id)
        .bind(due.millis())
        .bind(locked)
        .bind(held.millis())
        .bind(tombstone.map(|tombstone| tombstone.entry.sequence as i64))
        .execute(&mut *w.tx)
        .await?;
    Ok(erasure)
}

pub(super) async fn is_locked(tx: &mut Connection, tenant: &TenantId, subject: &SubjectName) -> Result<bool> {
    let locked =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM erasures WHERE tenant = $1 AND subject = $2 AND locked)");
    Ok(locked.bind(tenant.as_str()).bind(subject.as_str()).fetch_one(tx).await?)
}

pub(super) async fn owed(w: &mut Writing, sweep: Sweep) -> Result<Vec<Erasure>> {
    let due = match sweep {
        Sweep::Due => w.now.millis(),
        Sweep::All => i64::MAX,
    };
    let mut subjects: Vec<(String, String)> =
        sqlx::query_as("SELECT DISTINCT tenant, subject FROM erasures WHERE due <= $1 AND held <= $2")
            .bind(due)
            .bind(w.now.millis())
            .fetch_all(&mut *w.tx)
            .await?;
    subjects.sort();
    let subjects: Vec<_> = subjects.iter().map(|(tenant, subject)| owner(tenant, subject)).collect::<Result<_>>()?;
    dialect::lock_subjects(&mut w.tx, &subjects).await?;
    // Where no upload goes on, the sweep keeps new ones out until it is done.
    let rows = sqlx::query(
        "UPDATE erasures SET locked = locked OR NOT EXISTS
             (SELECT 1 FROM uploads WHERE uploads.tenant = erasures.tenant AND uploads.subject = erasures.subject),
             held = $3
         WHERE due <= $1 AND held <= $2
         RETURNING tenant, subject, id, locked, entry,
             (SELECT at FROM audit WHERE sequence = entry) AS at, (SELECT hash FROM audit WHERE sequence = entry) AS hash",
    )
    .bind(due)
    .bind(w.now.millis())
    .bind((w.now + SWEEP_LIMIT).millis())
    .fetch_all(&mut *w.tx)
    .await?;
    rows.iter().map(erasure).collect()
}

fn erasure(row: &Row) -> Result<Erasure> {
    let (tenant, subject) = owner(row.try_get("tenant")?, row.try_get("subject")?)?;
    let entry: Option<i64> = row.try_get("entry")?;
    let tombstone = |sequence: i64| {
        let entry = Point { sequence: sequence as u64, hash: audit::hash(row, "hash")? };
        Ok::<_, StoreError>(Tombstone { at: Timestamp::from_millis(row.try_get("at")?), entry })
    };
    let tombstone = entry.map(tombstone).transpose()?;
    Ok(Erasure { tenant, subject, id: row.try_get("id")?, locked: row.try_get("locked")?, tombstone })
}

fn owner(tenant: &str, subject: &str) -> Result<(TenantId, SubjectName)> {
    Ok((parsed("erasures.tenant", tenant)?, parsed("erasures.subject", subject)?))
}

pub(super) async fn unknown(tx: &mut Connection, erasure: &Erasure, keys: Vec<ObjectKey>) -> Result<Vec<ObjectKey>> {
    let (tenant, subject) = (erasure.tenant.as_str(), erasure.subject.as_str());
    let objects: Vec<String> = sqlx::query_scalar("SELECT key FROM objects WHERE tenant = $1 AND subject = $2")
        .bind(tenant)
        .bind(subject)
        .fetch_all(&mut *tx)
        .await?;
    let objects: BTreeSet<_> = objects.into_iter().collect();
    let tasks: Vec<String> = sqlx::query_scalar(
        "SELECT t.id FROM job_subjects s JOIN tasks t ON t.tenant = s.tenant AND t.job = s.job AND t.subject = s.subject
         WHERE s.tenant = $1 AND s.subject = $2",
    )
    .bind(tenant)
    .bind(subject)
    .fetch_all(&mut *tx)
    .await?;
    let tasks: BTreeSet<_> = tasks.into_iter().collect();
    let is_unknown = |key: &ObjectKey| match kind_of(key) {
        ObjectKind::Photo => erasure.locked && !objects.contains(key.as_str()),
        ObjectKind::Checkpoint | ObjectKind::Embedding | ObjectKind::Avatar | ObjectKind::Other => {
            !objects.contains(key.as_str()) && !task_of(key).is_some_and(|task| tasks.contains(task))
        }
    };
    Ok(keys.into_iter().filter(is_unknown).collect())
}

/// The task that wrote an output: `v1/{tenant}/{subject}/{kind}/{task}/…`.
fn task_of(key: &ObjectKey) -> Option<&str> {
    key.as_str().split('/').nth(4)
}

pub(super) async fn swept(w: &mut Writing, erasure: &Erasure) -> Result<()> {
    // A sweep that could not touch photos, or came early, is owed still.
    sqlx::query("DELETE FROM erasures WHERE tenant = $1 AND subject = $2 AND id = $3 AND due <= $4 AND $5")
        .bind(erasure.tenant.as_str())
        .bind(erasure.subject.as_str())
        .bind(&erasure.id)
        .bind(w.now.millis())
        .bind(erasure.locked)
        .execute(&mut *w.tx)
        .await?;
    sqlx::query("UPDATE erasures SET locked = FALSE, held = 0 WHERE tenant = $1 AND subject = $2 AND id = $3")
        .bind(erasure.tenant.as_str())
        .bind(erasure.subject.as_str())
        .bind(&erasure.id)
        .execute(&mut *w.tx)
        .await?;
    Ok(())
}
