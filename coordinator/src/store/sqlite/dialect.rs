//! What is SQLite's own. There is one writer at a time, which holds the whole file: nothing else has to be locked.

use likeness_proto::{JobId, SubjectName, TenantId};

use super::sql::Place;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::store::{Reach, StoreError};

type Result<T> = std::result::Result<T, StoreError>;

pub(super) type Db = sqlx::Sqlite;
pub(super) type Connection = sqlx::SqliteConnection;
pub(super) type Row = sqlx::sqlite::SqliteRow;

/// Connections of a pool at most.
pub(super) const CONNECTIONS: u32 = 4;
pub(super) const BEGIN: &str = "BEGIN IMMEDIATE";
pub(super) const READ: &str = "BEGIN";
/// The oldest tasks that are ready, of a kind and a model.
pub(super) const READY: &str = "SELECT id, tenant, job, subject FROM tasks
    WHERE state = 1 AND kind = $1 AND base_model = $2 ORDER BY queued_at, job, position, id LIMIT $3";

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
