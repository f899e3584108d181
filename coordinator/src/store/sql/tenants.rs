//! Tenants: what each is given, and whether it has as much as it may.

use likeness_proto::{ErrorCode, Refusal, TenantId};
use sqlx::Row as _;

use super::rows::{known, parsed};
use super::{Connection, Result, Row, Writing, audit, dialect};
use crate::audit::{Action, Actor, Note};
use crate::clock::Timestamp;
use crate::store::{Limits, Tenant, Terms, TermsChange, refusals};

pub(super) async fn create(w: &mut Writing, id: &TenantId, terms: &Terms, by: &Actor) -> Result<Tenant> {
    let Terms { retention_days, weight, limits } = terms;
    let made = sqlx::query(
        "INSERT INTO tenants (id, created_at, retention_days, weight, running_tasks, queued_jobs, bytes, photos)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING",
    )
    .bind(id.as_str())
    .bind(w.now.millis())
    .bind(i64::from(*retention_days))
    .bind(i64::from(*weight))
    .bind(i64::from(limits.running_tasks))
    .bind(i64::from(limits.queued_jobs))
    .bind(limits.bytes as i64)
    .bind(i64::from(limits.photos))
    .execute(&mut *w.tx)
    .await?;
    let tenant = get(&mut w.tx, id).await?;
    if made.rows_affected() > 0 {
        note(w, id, Action::TenantCreated, by).await?;
    }
    Ok(tenant)
}

async fn note(w: &mut Writing, id: &TenantId, action: Action, by: &Actor) -> Result<()> {
    let target = w.policy.blind.tenant(id);
    audit::append(w, Note { by, tenant: Some(id), action, target }).await.map(drop)
}

pub(super) async fn update(w: &mut Writing, id: &TenantId, change: &TermsChange, by: &Actor) -> Result<Tenant> {
    dialect::lock_tenant(&mut w.tx, id.as_str()).await?;
    let tenant = get(&mut w.tx, id).await?;
    let terms = change.apply(&tenant.terms);
    sqlx::query(
        "UPDATE tenants SET retention_days = $2, weight = $3, running_tasks = $4, queued_jobs = $5, bytes = $6, photos = $7
         WHERE id = $1",
    )
    .bind(id.as_str())
    .bind(i64::from(terms.retention_days))
    .bind(i64::from(terms.weight))
    .bind(i64::from(terms.limits.running_tasks))
    .bind(i64::from(terms.limits.queued_jobs))
    .bind(terms.limits.bytes as i64)
    .bind(i64::from(terms.limits.photos))
    .execute(&mut *w.tx)
    .await?;
    note(w, id, Action::TenantUpdated, by).await?;
    // It may be that more may run now.
    w.tell(crate::store::Signal::Ready);
    Ok(Tenant { terms, ..tenant })
}

const BY_ID: &str = "SELECT id, created_at, retention_days, weight, running_tasks, queued_jobs, bytes, photos FROM tenants WHERE id = $1";

async fn find(tx: &mut Connection, id: &TenantId) -> Result<Option<Tenant>> {
    let row = sqlx::query(BY_ID).bind(id.as_str()).fetch_optional(tx).await?;
    row.as_ref().map(decode).transpose()
}

pub(super) async fn get(tx: &mut Connection, id: &TenantId) -> Result<Tenant> {
    let unknown = || {
        let message = format!("there is no tenant {id}; `admin tenant list` shows those there are");
        Refusal::new(ErrorCode::UnknownTenant, message)
    };
    Ok(find(tx, id).await?.ok_or_else(unknown)?)
}

fn decode(row: &Row) -> Result<Tenant> {
    let number =
        |column: &'static str| -> Result<u32> { known(column, u32::try_from(row.try_get::<i64, _>(column)?).ok()) };
    let limits = Limits {
        running_tasks: number("running_tasks")?,
        queued_jobs: number("queued_jobs")?,
        bytes: known("bytes", u64::try_from(row.try_get::<i64, _>("bytes")?).ok())?,
        photos: number("photos")?,
    };
    Ok(Tenant {
        id: parsed("tenants.id", row.try_get("id")?)?,
        created_at: Timestamp::from_millis(row.try_get("created_at")?),
        terms: Terms { retention_days: number("retention_days")?, weight: number("weight")?, limits },
    })
}

pub(super) async fn list(tx: &mut Connection) -> Result<Vec<Tenant>> {
    let rows = sqlx::query(
        "SELECT id, created_at, retention_days, weight, running_tasks, queued_jobs, bytes, photos FROM tenants ORDER BY id",
    );
    rows.fetch_all(tx).await?.iter().map(decode).collect()
}

/// The tenant's limits. It is held, so that what is counted stays so until the transaction ends; one without limits is not.
async fn limits(w: &mut Writing, id: &TenantId) -> Result<Limits> {
    let limits = |tenant: Option<Tenant>| tenant.map(|tenant| tenant.terms.limits).unwrap_or_default();
    if limits(find(&mut w.tx, id).await?) == Limits::default() {
        return Ok(Limits::default());
    }
    dialect::lock_tenant(&mut w.tx, id.as_str()).await?;
    Ok(limits(find(&mut w.tx, id).await?))
}

/// Refuses one more job where the tenant has as many as it may, or as many bytes.
pub(super) async fn check_jobs(w: &mut Writing, id: &TenantId) -> Result<()> {
    let limits = limits(w, id).await?;
    if limits.queued_jobs > 0 {
        let jobs = count(&mut w.tx, "SELECT count(*) FROM jobs WHERE tenant = $1 AND ended_at IS NULL", id).await?;
        if jobs >= u64::from(limits.queued_jobs) {
            return Err(refusals::too_many_jobs(id, jobs, limits.queued_jobs).into());
        }
    }
    check_bytes(w, id, limits, 1).await
}

/// Refuses what was stored in this transaction where the tenant has more than it may.
pub(super) async fn check_stored(w: &mut Writing, id: &TenantId) -> Result<()> {
    let limits = limits(w, id).await?;
    if limits.photos > 0 {
        let statement = "SELECT count(*) FROM objects WHERE tenant = $1 AND key LIKE 'v1/%/%/photos/%'";
        let photos = count(&mut w.tx, statement, id).await?;
        if photos > u64::from(limits.photos) {
            return Err(refusals::too_many_photos(id, photos, limits.photos).into());
        }
    }
    check_bytes(w, id, limits, 0).await
}

async fn check_bytes(w: &mut Writing, id: &TenantId, limits: Limits, more: u64) -> Result<()> {
    if limits.bytes == 0 {
        return Ok(());
    }
    let statement = "SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM objects WHERE tenant = $1";
    let bytes = count(&mut w.tx, statement, id).await?;
    if bytes + more <= limits.bytes {
        return Ok(());
    }
    Err(refusals::too_many_bytes(id, bytes, limits.bytes).into())
}

async fn count(tx: &mut Connection, statement: &'static str, id: &TenantId) -> Result<u64> {
    let number: i64 = sqlx::query_scalar(statement).bind(id.as_str()).fetch_one(tx).await?;
    known("a count", u64::try_from(number).ok())
}

/// Says that something may be ready, if tasks of tenants ended that may have only so many at a time.
pub(super) async fn tell_freed(w: &mut Writing) -> Result<()> {
    for tenant in std::mem::take(&mut w.freed) {
        let limited = "SELECT count(*) FROM tenants WHERE id = $1 AND running_tasks > 0";
        if count(&mut w.tx, limited, &tenant).await? > 0 {
            w.tell(crate::store::Signal::Ready);
        }
    }
    Ok(())
}
