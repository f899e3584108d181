//! What is Postgres's own: locks. Whoever takes several takes them in this order, so that nobody waits in a circle: the
//! subjects of uploads and erasures, places of tenants in queues, tenants, tasks that are ready, the courses of subjects through
//! jobs, records of subjects, jobs, the end of the audit log; of each kind in the order of their keys. A place in a queue that is only
//! held comes last. A circle that is left all the same is broken by the server, and the transaction is
//! tried again.

use likeness_proto::{JobId, SubjectName, TaskId, TenantId};

use super::sql::Place;
use crate::clock::Timestamp;
use crate::store::contenders::contenders;
use crate::store::{Reach, StoreError};

type Result<T> = std::result::Result<T, StoreError>;

pub(super) type Db = sqlx::Postgres;
pub(super) type Connection = sqlx::PgConnection;
pub(super) type Row = sqlx::postgres::PgRow;

/// Connections of a pool at most.
pub(super) const CONNECTIONS: u32 = 16;
pub(super) const READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
pub(super) const ALONE: &str = contenders!("");
/// Those in no other transaction's hands; they are locked, but for whoever holds them with [`hold_queue`].
pub(super) const CONTENDERS: &str = contenders!(" FOR NO KEY UPDATE OF q SKIP LOCKED");
/// As [`CONTENDERS`], but waits for other transactions.
pub(super) const NEXT_CONTENDER: &str = contenders!(" FOR NO KEY UPDATE OF q");
/// Tasks of a kind, a model and a tenant that are ready, and in no other transaction's hands; they are locked.
pub(super) const READY: &str = "SELECT id, tenant, job, subject, cost FROM tasks
    WHERE state = 1 AND kind = $1 AND base_model = $2 AND tenant = $3
    ORDER BY priority DESC, queued_at, job, position, id LIMIT $4 FOR UPDATE SKIP LOCKED";
/// Tenants that are in a queue with nothing ready, and that nobody holds there; they are locked.
pub(super) const IDLE: &str = "SELECT kind, base_model, tenant FROM queues q WHERE
    (SELECT k.id FROM tasks k WHERE k.state = 1 AND k.kind = q.kind AND k.base_model = q.base_model AND k.tenant = q.tenant
     LIMIT 1) IS NULL
    ORDER BY kind, base_model, tenant FOR UPDATE SKIP LOCKED";

/// The server's clock, so that it does not matter what those of the coordinators say.
pub(super) async fn now(tx: &mut Connection) -> Result<Timestamp> {
    let millis = sqlx::query_scalar("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)");
    Ok(Timestamp::from_millis(millis.fetch_one(tx).await?))
}

/// Keeps uploads and sweeps of these subjects out of each other's way, until the transaction ends.
pub(super) async fn lock_subjects(tx: &mut Connection, of: &[(TenantId, SubjectName)]) -> Result<()> {
    lock_names(tx, "SELECT pg_advisory_xact_lock(hashtextextended(name, 0)) FROM unnest($1::text[]) AS name", of).await
}

/// As [`lock_subjects`], except that those who share do not wait for each other.
pub(super) async fn share_subjects(tx: &mut Connection, of: &[(TenantId, SubjectName)]) -> Result<()> {
    lock_names(tx, "SELECT pg_advisory_xact_lock_shared(hashtextextended(name, 0)) FROM unnest($1::text[]) AS name", of)
        .await
}

/// Locks are taken in the order of the list: a scan of an array keeps it.
async fn lock_names(tx: &mut Connection, statement: &'static str, of: &[(TenantId, SubjectName)]) -> Result<()> {
    let names: Vec<_> = of.iter().map(|(tenant, subject)| format!("{tenant}/{subject}")).collect();
    sqlx::query(statement).bind(names).execute(tx).await?;
    Ok(())
}

/// Makes courses the transaction's own: whoever changes a course holds its progress.
pub(super) async fn lock_courses(tx: &mut Connection, places: &[Place], reach: Reach) -> Result<()> {
    const READY_TASKS: &str = "SELECT FROM tasks
        JOIN unnest($1::text[], $2::text[], $3::text[]) AS place (tenant, job, subject) USING (tenant, job, subject)
        WHERE state = 1 ORDER BY tenant, job, subject, position FOR UPDATE OF tasks";
    const COURSES: &str = "SELECT FROM job_subjects
        JOIN unnest($1::text[], $2::text[], $3::text[]) AS place (tenant, job, subject) USING (tenant, job, subject)
        ORDER BY tenant, job, subject FOR UPDATE OF job_subjects";
    let statements: &[&'static str] = match reach {
        _ if places.is_empty() => &[],
        Reach::Own => &[COURSES],
        Reach::Siblings => &[READY_TASKS, COURSES],
    };
    let tenants: Vec<_> = places.iter().map(|place| place.tenant.to_string()).collect();
    let jobs: Vec<_> = places.iter().map(|place| place.job.to_string()).collect();
    let subjects: Vec<_> = places.iter().map(|place| place.subject.to_string()).collect();
    for statement in statements {
        sqlx::query(*statement).bind(&tenants).bind(&jobs).bind(&subjects).execute(&mut *tx).await?;
    }
    Ok(())
}

pub(super) async fn lock_subject_record(tx: &mut Connection, of: &TenantId, name: &SubjectName) -> Result<()> {
    sqlx::query("SELECT FROM subjects WHERE tenant = $1 AND name = $2 FOR UPDATE")
        .bind(of.as_str())
        .bind(name.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

/// Makes the end of the audit log the transaction's own, until it ends. Taken last of all.
pub(super) async fn lock_audit(tx: &mut Connection) -> Result<()> {
    // Not in one statement with a look at the end: that would see it as it was before the wait.
    const LOG: i64 = 0x6C69_6B65_6E65_7373;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOG).execute(tx).await?;
    Ok(())
}

pub(super) async fn lock_job(tx: &mut Connection, of: &TenantId, job: JobId) -> Result<()> {
    sqlx::query("SELECT FROM jobs WHERE tenant = $1 AND id = $2 FOR UPDATE")
        .bind(of.as_str())
        .bind(job.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

/// Keeps what is counted of a tenant as it is.
pub(super) async fn lock_tenant(tx: &mut Connection, id: &str) -> Result<()> {
    sqlx::query("SELECT FROM tenants WHERE id = $1 FOR NO KEY UPDATE").bind(id).execute(tx).await?;
    Ok(())
}

/// Keeps the place of a task's tenant in its queue from being tidied away. Answers whether it is there.
pub(super) async fn hold_queue(tx: &mut Connection, tenant: &TenantId, task: TaskId) -> Result<bool> {
    let held = sqlx::query(
        "SELECT FROM queues JOIN tasks USING (kind, base_model, tenant) WHERE tasks.tenant = $1 AND tasks.id = $2
         FOR KEY SHARE OF queues",
    );
    Ok(held.bind(tenant.as_str()).bind(task.to_string()).fetch_optional(tx).await?.is_some())
}
