//! What is SQLite's own. There is one writer at a time, which holds the whole file: nothing else has to be locked.

use likeness_proto::{JobId, SubjectName, TaskId, TenantId};

use super::sql::Place;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::store::contenders::contenders;
use crate::store::{Reach, StoreError};

type Result<T> = std::result::Result<T, StoreError>;

pub(super) type Db = sqlx::Sqlite;
pub(super) type Connection = sqlx::SqliteConnection;
pub(super) type Row = sqlx::sqlite::SqliteRow;

/// Connections of a pool at most.
pub(super) const CONNECTIONS: u32 = 4;
pub(super) const READ: &str = "BEGIN";
pub(super) const ALONE: &str = contenders!("");
pub(super) const CONTENDERS: &str = ALONE;
pub(super) const NEXT_CONTENDER: &str = ALONE;
/// Tasks of a kind, a model and a tenant that are ready.
pub(super) const READY: &str = "SELECT id, tenant, job, subject, cost FROM tasks
    WHERE state = 1 AND kind = $1 AND base_model = $2 AND tenant = $3
    ORDER BY priority DESC, queued_at, job, position, id LIMIT $4";
/// Tenants that are in a queue with nothing ready.
pub(super) const IDLE: &str = "SELECT kind, base_model, tenant FROM queues q WHERE NOT EXISTS
    (SELECT 1 FROM tasks k WHERE k.state = 1 AND k.kind = q.kind AND k.base_model = q.base_model AND k.tenant = q.tenant)";

pub(super) async fn now(_tx: &mut Connection) -> Result<Timestamp> {
    Ok(SystemClock.now())
}

pub(super) async fn lock_subjects(_tx: &mut Connection, _of: &[(TenantId, SubjectName)]) -> Result<()> {
    Ok(())
}

pub(super) async fn share_subjects(_tx: &mut Connection, _of: &[(TenantId, SubjectName)]) -> Result<()> {
    Ok(())
}

pub(super) async fn lock_courses(_tx: &mut Connection, _places: &[Place], _reach: Reach) -> Result<()> {
    Ok(())
}

pub(super) async fn lock_subject_record(_tx: &mut Connection, _of: &TenantId, _name: &SubjectName) -> Result<()> {
    Ok(())
}

pub(super) async fn lock_audit(_tx: &mut Connection) -> Result<()> {
    Ok(())
}

pub(super) async fn lock_job(_tx: &mut Connection, _of: &TenantId, _job: JobId) -> Result<()> {
    Ok(())
}

pub(super) async fn lock_tenant(_tx: &mut Connection, _id: &str) -> Result<()> {
    Ok(())
}

pub(super) async fn hold_queue(tx: &mut Connection, tenant: &TenantId, task: TaskId) -> Result<bool> {
    let there = sqlx::query(
        "SELECT 1 FROM queues JOIN tasks USING (kind, base_model, tenant) WHERE tasks.tenant = $1 AND tasks.id = $2",
    );
    Ok(there.bind(tenant.as_str()).bind(task.to_string()).fetch_optional(tx).await?.is_some())
}
