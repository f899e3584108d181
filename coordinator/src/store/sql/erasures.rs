//! Forgetting. First the rows go and the work stops, in one transaction that also owes the sweep of the subject's
//! prefix; then the prefix is swept, at once and again later, when nobody can be writing under an old lease any more.
//! A sweep removes only what nothing known refers to, so it may happen at any time and does not touch a subject that was
//! put again since.

use std::collections::BTreeSet;
use std::time::Duration;

use likeness_proto::v1;
use likeness_proto::{ObjectKey, ObjectKind, SubjectName, TenantId, kind_of};
use uuid::Uuid;

use super::courses::{self, Place};
use super::rows::parsed;
use super::{Connection, Result, Writing, dialect};
use crate::clock::Timestamp;
use crate::lifecycle::SubjectState;
use crate::store::{Erasure, Forgotten, Reach, SWEEP_LIMIT, Sweep, refusals};

/// How long after forgetting the last sweep comes: for processes that hung with a write half done.
const LAST_SWEEP: Duration = Duration::from_secs(60 * 60);

pub(super) async fn forget(w: &mut Writing, tenant: &TenantId, subject: &SubjectName) -> Result<Forgotten> {
    dialect::lock_subjects(&mut w.tx, &[(tenant.clone(), subject.clone())]).await?;
    if !is_known(&mut w.tx, tenant, subject).await? {
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
        owe(w, tenant, subject, w.now + later, false).await?;
    }
    let erasure = owe(w, tenant, subject, w.now, true).await?;
    Ok(Forgotten { at: w.now, jobs, erasure })
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
    locked: bool,
) -> Result<Erasure> {
    let (tenant, subject) = (tenant.clone(), subject.clone());
    let erasure = Erasure { tenant, subject, id: Uuid::new_v4().to_string(), locked };
    // Whoever locks begins at once.
    let held = if locked { w.now + SWEEP_LIMIT } else { w.now };
    sqlx::query("INSERT INTO erasures (tenant, subject, id, due, locked, held) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(erasure.tenant.as_str())
        .bind(erasure.subject.as_str())
        .bind(&erasure.id)
        .bind(due.millis())
        .bind(locked)
        .bind(held.millis())
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
    let rows: Vec<(String, String, String, bool)> = sqlx::query_as(
        "UPDATE erasures SET locked = locked OR NOT EXISTS
             (SELECT 1 FROM uploads WHERE uploads.tenant = erasures.tenant AND uploads.subject = erasures.subject),
             held = $3
         WHERE due <= $1 AND held <= $2 RETURNING tenant, subject, id, locked",
    )
    .bind(due)
    .bind(w.now.millis())
    .bind((w.now + SWEEP_LIMIT).millis())
    .fetch_all(&mut *w.tx)
    .await?;
    let erasure = |(tenant, subject, id, locked): (String, String, String, bool)| {
        let (tenant, subject) = owner(&tenant, &subject)?;
        Ok(Erasure { tenant, subject, id, locked })
    };
    rows.into_iter().map(erasure).collect()
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
