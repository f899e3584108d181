//! Reading who works on what.

use likeness_proto::{TaskKind, TenantId, v1};
use sqlx::{FromRow, Row as _};

use super::courses::Place;
use super::rows::{known, parsed, record};
use super::{Connection, Result, Row};
use crate::store::{Hand, Held, ROSTER_LIMIT, Roster, StoreError};

/// The whole fleet, or what is leased of a tenant's tasks.
pub(super) async fn roster(tx: &mut Connection, of: Option<&TenantId>) -> Result<Roster> {
    let workers = if of.is_none() { workers(&mut *tx).await? } else { Vec::new() };
    // Few rows in any case: an index has the tasks that are leased.
    let rows = sqlx::query(
        "SELECT t.tenant, t.job, t.subject, t.kind, t.holder, t.drawn, t.shots, s.record FROM tasks AS t
         JOIN job_subjects AS s ON s.tenant = t.tenant AND s.job = t.job AND s.subject = t.subject
         WHERE t.state = 2 AND (t.tenant = $1 OR $1 = '') ORDER BY t.tenant, t.job, t.subject, t.position LIMIT $2",
    )
    .bind(of.map_or("", TenantId::as_str))
    .bind(i64::from(ROSTER_LIMIT))
    .fetch_all(tx)
    .await?;
    Ok(Roster { workers, held: rows.iter().map(held).collect::<Result<_>>()? })
}

async fn workers(tx: &mut Connection) -> Result<Vec<Hand>> {
    let stored: Vec<Vec<u8>> = sqlx::query_scalar("SELECT record FROM workers ORDER BY name LIMIT $1")
        .bind(i64::from(ROSTER_LIMIT))
        .fetch_all(tx)
        .await?;
    stored.iter().map(|bytes| hand(record(bytes)?)).collect()
}

fn hand(worker: v1::RegisterRequest) -> Result<Hand> {
    Ok(Hand {
        incarnation: parsed("workers.incarnation", &worker.incarnation)?,
        kinds: worker.kinds.into_iter().map(kind).collect::<Result<_>>()?,
        models: worker.models.into_iter().map(|model| model.name).collect(),
        name: worker.worker,
        software: worker.software,
    })
}

fn held(row: &Row) -> Result<Held> {
    let Place { tenant, job, subject } = Place::from_row(row)?;
    let kind = kind(row.try_get("kind")?)?;
    let progress: v1::SubjectProgress = record(row.try_get("record")?)?;
    let count = |column: &str| -> Result<u32> { known(column, u32::try_from(row.try_get::<i64, _>(column)?).ok()) };
    Ok(Held {
        holder: parsed("tasks.holder", row.try_get("holder")?)?,
        training: progress.training.filter(|_| kind == TaskKind::Train),
        drawn: (count("drawn")?, count("shots")?),
        tenant,
        job,
        subject,
        kind,
    })
}

fn kind(number: i32) -> Result<TaskKind> {
    TaskKind::decode(number).map_err(|error| StoreError::Record(error.message))
}
