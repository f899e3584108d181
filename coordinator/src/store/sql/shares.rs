//! Which tenant's task is next: the queues of [`crate::lifecycle::Deal`], as rows.
//!
//! A queue is of one kind and model. A tenant's row is there as long as it has tasks which are ready, and goes some time after the last
//! of them; whoever makes a task ready sees to it that the row is there. A claim holds the rows of the tenants that it serves, so that
//! claims of other tenants go on beside it.

use std::collections::VecDeque;

use likeness_proto::{ModelDigest, TaskId, TaskKind, TenantId};
use sqlx::{FromRow, Row as _};

use super::courses::Place;
use super::rows::{known, parsed};
use super::{Connection, Result, Writing, dialect};
use crate::lifecycle::{Contender, Deal, UNIT};
use crate::store::StoreError;

/// A queue: what is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue<'a> {
    pub(super) kind: TaskKind,
    pub(super) model: &'a ModelDigest,
}

/// A tenant of a queue and those of its tasks that may be granted now.
struct Line {
    tenant: TenantId,
    /// Not yet read: `None`.
    tasks: Option<VecDeque<(TaskId, Place, u32)>>,
}

/// Tasks of a queue, at most `wanted`, dealt fairly. They are the caller's until the transaction ends; those that are another's
/// meanwhile are passed over.
pub(super) async fn take(w: &mut Writing, queue: Queue<'_>, wanted: usize) -> Result<Vec<(TaskId, Place)>> {
    let crowd = crowd(&mut w.tx, queue).await?;
    let rows = match crowd {
        Crowd::Nobody => return Ok(Vec::new()),
        // Nobody to be fair to: claims need not wait for each other.
        Crowd::One => contenders(&mut w.tx, dialect::ALONE, queue, 1).await?,
        Crowd::Many => match contenders(&mut w.tx, dialect::CONTENDERS, queue, wanted).await? {
            // All are in the hands of other claims: the next one that is free.
            rows if rows.is_empty() => contenders(&mut w.tx, dialect::NEXT_CONTENDER, queue, 1).await?,
            rows => rows,
        },
    };
    let (mut lines, mut seats) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for row in rows {
        let (weight, room) = (row.weight()?, row.room(&mut w.tx).await?);
        seats.push(Contender { begun: row.begun, turn: row.turn, weight, room });
        lines.push(Line { tenant: parsed("queues.tenant", &row.tenant)?, tasks: None });
    }
    let mut deal = Deal::new(seats.clone());
    let mut taken = Vec::with_capacity(wanted);
    while taken.len() < wanted {
        let Some(next) = deal.next() else { break };
        let line = &mut lines[next];
        if line.tasks.is_none() {
            line.tasks = Some(ready(&mut w.tx, queue, &line.tenant, wanted - taken.len()).await?);
        }
        match line.tasks.as_mut().and_then(VecDeque::pop_front) {
            Some((task, place, cost)) => {
                deal.served(next, cost);
                taken.push((task, place));
            }
            None => deal.out(next),
        }
    }
    if crowd == Crowd::Many {
        for (index, (line, before)) in lines.iter().zip(&seats).enumerate() {
            let after = deal.contender(index);
            if after.turn != before.turn {
                advance(&mut w.tx, queue, &line.tenant, after).await?;
            }
        }
    }
    Ok(taken)
}

/// How many tenants are in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crowd {
    Nobody,
    One,
    Many,
}

async fn crowd(tx: &mut Connection, queue: Queue<'_>) -> Result<Crowd> {
    let tenants: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT 1 FROM queues WHERE kind = $1 AND base_model = $2 LIMIT 2) AS few",
    )
    .bind(queue.kind.encode())
    .bind(queue.model.as_str())
    .fetch_one(tx)
    .await?;
    Ok(match tenants {
        0 => Crowd::Nobody,
        1 => Crowd::One,
        _ => Crowd::Many,
    })
}

#[derive(FromRow)]
struct ContenderRow {
    tenant: String,
    begun: i64,
    turn: i64,
    weight: i64,
    running_tasks: i64,
}

impl ContenderRow {
    fn weight(&self) -> Result<u32> {
        known("tenants.weight", u32::try_from(self.weight).ok())
    }

    /// Tasks that the tenant may have leased besides those it has. Holds the tenant, if there is a limit: it may be in other queues.
    async fn room(&self, tx: &mut Connection) -> Result<u32> {
        if self.running_tasks == 0 {
            return Ok(u32::MAX);
        }
        dialect::lock_tenant(&mut *tx, &self.tenant).await?;
        let running: i64 = sqlx::query_scalar("SELECT count(*) FROM tasks WHERE state = 2 AND tenant = $1")
            .bind(&self.tenant)
            .fetch_one(tx)
            .await?;
        known("tenants.running_tasks", u32::try_from((self.running_tasks - running).max(0)).ok())
    }
}

async fn contenders(
    tx: &mut Connection,
    statement: &'static str,
    queue: Queue<'_>,
    most: usize,
) -> Result<Vec<ContenderRow>> {
    let rows = sqlx::query_as(statement).bind(queue.kind.encode()).bind(queue.model.as_str()).bind(most as i64);
    Ok(rows.fetch_all(tx).await?)
}

/// The tenant's tasks that are ready: of the highest priority first, then the oldest.
async fn ready(
    tx: &mut Connection,
    queue: Queue<'_>,
    tenant: &TenantId,
    most: usize,
) -> Result<VecDeque<(TaskId, Place, u32)>> {
    let rows = sqlx::query(dialect::READY)
        .bind(queue.kind.encode())
        .bind(queue.model.as_str())
        .bind(tenant.as_str())
        .bind(most as i64)
        .fetch_all(tx)
        .await?;
    let task = |row| -> Result<_> {
        let row: &super::Row = row;
        let cost = known("tasks.cost", u32::try_from(row.try_get::<i64, _>("cost")?).ok())?;
        Ok((parsed("tasks.id", row.try_get("id")?)?, Place::from_row(row)?, cost))
    };
    rows.iter().map(task).collect()
}

async fn advance(tx: &mut Connection, queue: Queue<'_>, tenant: &TenantId, to: Contender) -> Result<()> {
    sqlx::query("UPDATE queues SET begun = $1, turn = $2 WHERE kind = $3 AND base_model = $4 AND tenant = $5")
        .bind(to.begun)
        .bind(to.turn)
        .bind(queue.kind.encode())
        .bind(queue.model.as_str())
        .bind(tenant.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

/// Sees to it that the tenants of tasks that the transaction made ready are in the queues of those.
pub(super) async fn enqueue(w: &mut Writing) -> Result<()> {
    for ((tenant, _job, _kind), task) in std::mem::take(&mut w.readied) {
        /// Somebody may tidy the place away before it is held, but not time and again.
        const TRIES: u32 = 10;
        let mut tries = 0;
        while !dialect::hold_queue(&mut w.tx, &tenant, task).await? {
            if tries == TRIES {
                return Err(StoreError::Contended("the tenant's place in the queue came and went".to_owned()));
            }
            tries += 1;
            enter(&mut w.tx, &tenant, task).await?;
        }
    }
    Ok(())
}

async fn enter(tx: &mut Connection, tenant: &TenantId, task: TaskId) -> Result<()> {
    sqlx::query(
        "INSERT INTO queues (kind, base_model, tenant, begun, turn)
         SELECT kind, base_model, tenant, now, now + price FROM (
             SELECT k.kind, k.base_model, k.tenant,
                 k.cost * $3 / coalesce((SELECT weight FROM tenants WHERE id = k.tenant), 1) AS price,
                 coalesce((SELECT min(q.begun) FROM queues q WHERE q.kind = k.kind AND q.base_model = k.base_model), 0) AS now
             FROM tasks k WHERE k.tenant = $1 AND k.id = $2) AS newcomer
         WHERE TRUE ON CONFLICT DO NOTHING",
    )
    .bind(tenant.as_str())
    .bind(task.to_string())
    .bind(UNIT)
    .execute(tx)
    .await?;
    Ok(())
}

/// Takes tenants out of queues that have nothing ready there, and lets those catch up that were held back by a limit of their own:
/// that is no claim on what others were given meanwhile.
pub(super) async fn tidy(w: &mut Writing) -> Result<()> {
    let idle: Vec<(i32, String, String)> = sqlx::query_as(dialect::IDLE).fetch_all(&mut *w.tx).await?;
    for (kind, model, tenant) in idle {
        // Looked at again, now that the row is held.
        sqlx::query(
            "DELETE FROM queues WHERE kind = $1 AND base_model = $2 AND tenant = $3 AND NOT EXISTS
                 (SELECT 1 FROM tasks WHERE state = 1 AND kind = $1 AND base_model = $2 AND tenant = $3)",
        )
        .bind(kind)
        .bind(model)
        .bind(tenant)
        .execute(&mut *w.tx)
        .await?;
    }
    sqlx::query(
        "UPDATE queues SET begun = floors.begun, turn = floors.turn FROM (
             SELECT q.kind, q.base_model, min(q.begun) AS begun, min(q.turn) AS turn FROM queues q LEFT JOIN tenants t ON t.id = q.tenant
             WHERE coalesce(t.running_tasks, 0) = 0
                 OR t.running_tasks > (SELECT count(*) FROM tasks k WHERE k.state = 2 AND k.tenant = q.tenant)
             GROUP BY q.kind, q.base_model) AS floors
         WHERE queues.kind = floors.kind AND queues.base_model = floors.base_model AND queues.turn < floors.turn",
    )
    .execute(&mut *w.tx)
    .await?;
    Ok(())
}
