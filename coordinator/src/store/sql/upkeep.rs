//! Work that one coordinator does for all: whose turn it is, what nothing refers to any more, and whose time is over.

use std::collections::BTreeSet;
use std::time::Duration;

use likeness_proto::v1;
use likeness_proto::{LeaseId, ObjectKey, ObjectKind, SubjectName, TenantId, kind_of, lease_of};
use uuid::Uuid;

use super::rows::{parsed, record};
use super::{Connection, Result, Writing, dialect, erasures, subjects};
use crate::clock::Timestamp;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Takes or keeps a turn. Answers whether it is the caller's now, for `span`.
pub(super) async fn take_turn(w: &mut Writing, work: &str, holder: Uuid, span: Duration) -> Result<bool> {
    let taken = sqlx::query(
        "INSERT INTO turns (name, holder, ends) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, ends = excluded.ends
         WHERE turns.ends <= $4 OR turns.holder = excluded.holder",
    )
    .bind(work)
    .bind(holder.to_string())
    .bind((w.now + span).millis())
    .bind(w.now.millis())
    .execute(&mut *w.tx)
    .await?;
    Ok(taken.rows_affected() > 0)
}

/// Which of the keys of a subject nothing refers to, now or ever again. Photos are never among them: an upload may be about to refer
/// to those, so a sweep is owed that keeps uploads out.
pub(super) async fn garbage(
    w: &mut Writing,
    tenant: &TenantId,
    subject: &SubjectName,
    keys: Vec<ObjectKey>,
) -> Result<Vec<ObjectKey>> {
    let published = published(&mut w.tx, tenant, subject).await?;
    let standing = standing(&mut w.tx, tenant, subject).await?;
    let (photos, outputs): (Vec<_>, Vec<_>) = keys
        .into_iter()
        .filter(|key| !published.contains(key.as_str()))
        .partition(|key| kind_of(key) == ObjectKind::Photo);
    if !photos.is_empty() {
        owe_sweep(w, tenant, subject).await?;
    }
    let is_wanted = |key: &ObjectKey| lease_of(key).is_some_and(|lease| standing.want(lease, key));
    Ok(outputs.into_iter().filter(|key| !is_wanted(key)).collect())
}

async fn published(tx: &mut Connection, tenant: &TenantId, subject: &SubjectName) -> Result<BTreeSet<String>> {
    let objects = sqlx::query_scalar("SELECT key FROM objects WHERE tenant = $1 AND subject = $2");
    let objects: Vec<String> = objects.bind(tenant.as_str()).bind(subject.as_str()).fetch_all(tx).await?;
    Ok(objects.into_iter().collect())
}

/// What tasks want that have not ended.
#[derive(Default)]
struct Standing {
    /// Leases that go on, under which somebody may be writing.
    leases: BTreeSet<(String, u64)>,
    /// Where a next lease would begin: at a checkpoint of the task's own, or at the vectors that a preview is drawn with.
    begins: BTreeSet<String>,
}

impl Standing {
    fn want(&self, lease: LeaseId, key: &ObjectKey) -> bool {
        self.leases.contains(&(lease.task.to_string(), lease.fence.get())) || self.begins.contains(key.as_str())
    }
}

async fn standing(tx: &mut Connection, tenant: &TenantId, subject: &SubjectName) -> Result<Standing> {
    const LEASED: i32 = 2;
    let rows: Vec<(String, i32, i64, Option<Vec<u8>>)> = sqlx::query_as(
        "SELECT t.id, t.state, t.grants, t.checkpoint FROM job_subjects s
         JOIN tasks t ON t.tenant = s.tenant AND t.job = s.job AND t.subject = s.subject
         WHERE s.tenant = $1 AND s.subject = $2 AND t.state IN (0, 1, 2)",
    )
    .bind(tenant.as_str())
    .bind(subject.as_str())
    .fetch_all(tx)
    .await?;
    let mut standing = Standing::default();
    for (id, state, grants, checkpoint) in rows {
        if state == LEASED {
            standing.leases.insert((id, grants as u64));
        }
        let checkpoint: Option<v1::Checkpoint> = checkpoint.map(|bytes| record(&bytes)).transpose()?;
        standing.begins.extend(checkpoint.and_then(|checkpoint| checkpoint.object).map(|object| object.key));
    }
    Ok(standing)
}

async fn owe_sweep(w: &mut Writing, tenant: &TenantId, subject: &SubjectName) -> Result<()> {
    dialect::lock_subjects(&mut w.tx, &[(tenant.clone(), subject.clone())]).await?;
    let busy: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM uploads WHERE tenant = $1 AND subject = $2)
             OR EXISTS (SELECT 1 FROM erasures WHERE tenant = $1 AND subject = $2 AND due <= $3)",
    )
    .bind(tenant.as_str())
    .bind(subject.as_str())
    .bind(w.now.millis())
    .fetch_one(&mut *w.tx)
    .await?;
    if !busy {
        erasures::owe(w, tenant, subject, w.now, None).await?;
    }
    Ok(())
}

/// A subject of a tenant that keeps subjects for a while.
#[derive(sqlx::FromRow)]
struct Aging {
    tenant: String,
    name: String,
    record: Vec<u8>,
    retention_days: i64,
    /// When its last job ended; now, if one goes on.
    worked: Option<i64>,
}

impl Aging {
    fn is_over(&self, now: Timestamp) -> Result<bool> {
        let put = subjects::stored_at(&record(&self.record)?);
        let last = put.max(Timestamp::from_millis(self.worked.unwrap_or(0)));
        Ok(last + DAY * self.retention_days as u32 <= now)
    }
}

/// Subjects of tenants that keep subjects for a while, and of those the ones that `$which` says.
macro_rules! aging {
    ($which:literal) => {
        concat!(
            "SELECT s.tenant, s.name, s.record, t.retention_days,
                 (SELECT max(coalesce(j.ended_at, $1))
                  FROM job_subjects p JOIN jobs j ON j.tenant = p.tenant AND j.id = p.job
                  WHERE p.tenant = s.tenant AND p.subject = s.name AND NOT p.forgotten) AS worked
             FROM subjects s JOIN tenants t ON t.id = s.tenant
             WHERE t.retention_days > 0
                 AND NOT EXISTS (SELECT 1 FROM uploads u WHERE u.tenant = s.tenant AND u.subject = s.name)",
            $which
        )
    };
}

/// Subjects that their tenant keeps no longer: no photos came, and no job went on, for as long as it says.
pub(super) async fn overdue(tx: &mut Connection, now: Timestamp) -> Result<Vec<(TenantId, SubjectName)>> {
    let rows: Vec<Aging> = sqlx::query_as(aging!("")).bind(now.millis()).fetch_all(tx).await?;
    let mut overdue = Vec::new();
    for aging in rows {
        if aging.is_over(now)? {
            overdue.push((parsed("subjects.tenant", &aging.tenant)?, parsed("subjects.name", &aging.name)?));
        }
    }
    Ok(overdue)
}

/// Whether a subject is one of those.
pub(super) async fn is_overdue(
    tx: &mut Connection,
    now: Timestamp,
    tenant: &TenantId,
    subject: &SubjectName,
) -> Result<bool> {
    let row: Option<Aging> = sqlx::query_as(aging!(" AND s.tenant = $2 AND s.name = $3"))
        .bind(now.millis())
        .bind(tenant.as_str())
        .bind(subject.as_str())
        .fetch_optional(tx)
        .await?;
    row.map_or(Ok(false), |aging| aging.is_over(now))
}
