//! Counts for metrics. What waits is read off the index that claims use, whole and in its order: half a second or so for a million tasks.
//! So whoever counts lets the pause grow with what a look takes.

use std::collections::{BTreeMap, BTreeSet};

use likeness_proto::v1;
use likeness_proto::{Incarnation, TaskKind};

use super::rows::{known, record};
use super::{Connection, Result, Writing};
use crate::clock::Timestamp;
use crate::lifecycle::JobState;
use crate::store::StoreError;
use crate::store::census::{Census, Class, Presence, WORKER_GONE, WORKER_SEEN, Waiting};

pub(super) async fn count(tx: &mut Connection, now: Timestamp) -> Result<Census> {
    Ok(Census {
        waiting: waiting(&mut *tx, now).await?,
        leases: leases(&mut *tx).await?,
        jobs: jobs(&mut *tx).await?,
        workers: workers(tx, now).await?,
    })
}

async fn waiting(tx: &mut Connection, now: Timestamp) -> Result<BTreeMap<(TaskKind, Class), Waiting>> {
    let rows: Vec<(i32, i64, i64, i64)> = sqlx::query_as(
        "SELECT w.kind, coalesce(n.weight, 1), w.tasks, w.since
         FROM (SELECT kind, tenant, count(*) AS tasks,
                   min(CASE WHEN ready_at > queued_at THEN ready_at ELSE queued_at END) AS since
               FROM tasks WHERE state = 1 GROUP BY kind, base_model, tenant) w
         LEFT JOIN tenants n ON n.id = w.tenant",
    )
    .fetch_all(tx)
    .await?;
    let mut waiting = BTreeMap::<_, Waiting>::new();
    for (kind, weight, tasks, since) in rows {
        let place = (decoded(kind)?, Class::of(known("tenants.weight", u32::try_from(weight).ok())?));
        waiting.entry(place).or_default().add(tasks as u64, now.since(Timestamp::from_millis(since)));
    }
    Ok(waiting)
}

async fn leases(tx: &mut Connection) -> Result<BTreeMap<TaskKind, u64>> {
    let rows: Vec<(i32, i64)> =
        sqlx::query_as("SELECT kind, count(*) FROM tasks WHERE state = 2 GROUP BY kind").fetch_all(tx).await?;
    rows.into_iter().map(|(kind, tasks)| Ok((decoded(kind)?, tasks as u64))).collect()
}

async fn jobs(tx: &mut Connection) -> Result<Vec<(JobState, u64)>> {
    let rows: Vec<(i32, i64)> =
        sqlx::query_as("SELECT state, count(*) FROM jobs WHERE ended_at IS NULL GROUP BY state").fetch_all(tx).await?;
    rows.into_iter().map(|(state, jobs)| Ok((known("jobs.state", JobState::decode(state))?, jobs as u64))).collect()
}

async fn workers(tx: &mut Connection, now: Timestamp) -> Result<BTreeMap<(TaskKind, Presence), u64>> {
    let holders: Vec<Option<String>> =
        sqlx::query_scalar("SELECT DISTINCT holder FROM tasks WHERE state = 2").fetch_all(&mut *tx).await?;
    let holders: BTreeSet<String> = holders.into_iter().flatten().collect();
    let rows: Vec<(String, i64, Vec<u8>)> =
        sqlx::query_as("SELECT incarnation, seen_at, record FROM workers").fetch_all(tx).await?;
    let mut workers = BTreeMap::new();
    for (incarnation, seen_at, bytes) in rows {
        let presence = match holders.contains(&incarnation) {
            true => Presence::Working,
            false if now.since(Timestamp::from_millis(seen_at)) < WORKER_GONE => Presence::Idle,
            false => continue,
        };
        let worker: v1::RegisterRequest = record(&bytes)?;
        if let Some(first) = worker.kinds.first() {
            *workers.entry((decoded(*first)?, presence)).or_default() += 1;
        }
    }
    Ok(workers)
}

fn decoded(kind: i32) -> Result<TaskKind> {
    TaskKind::decode(kind).map_err(|error| StoreError::Record(error.message))
}

/// Notes that a worker has asked for work, unless that was just noted.
pub(super) async fn seen(w: &mut Writing, incarnation: Incarnation, seen_at: i64) -> Result<()> {
    if w.now.since(Timestamp::from_millis(seen_at)) < WORKER_SEEN {
        return Ok(());
    }
    sqlx::query("UPDATE workers SET seen_at = $1 WHERE incarnation = $2")
        .bind(w.now.millis())
        .bind(incarnation.to_string())
        .execute(&mut *w.tx)
        .await?;
    Ok(())
}
