//! The audit log's table. An entry is appended by the transaction that it tells of, as the last thing that it does: the chain has one end,
//! and whoever appends holds it until the commit.

use likeness_proto::Sha256;
use sqlx::Row as _;

use super::rows::known;
use super::{Connection, Result, Row, Writing, dialect};
use crate::audit::{Chain, Entry, Note, Point};

/// Appends an entry. To be called last: everybody else who appends waits for this transaction's end.
pub(super) async fn append(w: &mut Writing, note: Note<'_>) -> Result<Point> {
    dialect::lock_audit(&mut w.tx).await?;
    let last = last(&mut w.tx).await?;
    let mut entry = Entry {
        sequence: last.as_ref().map_or(0, |last| last.sequence) + 1,
        at: w.now.millis(),
        actor: note.by.to_string(),
        tenant: note.tenant.map(ToString::to_string).unwrap_or_default(),
        action: note.action.number(),
        target: note.target,
        previous: last.map_or(Chain::NOTHING, |last| last.hash),
        hash: Chain::NOTHING,
    };
    entry.hash = entry.digest();
    insert(&mut w.tx, &entry).await?;
    Ok(Point { sequence: entry.sequence, hash: entry.hash })
}

async fn insert(tx: &mut Connection, entry: &Entry) -> Result<()> {
    sqlx::query(
        "INSERT INTO audit (sequence, at, actor, tenant, action, target, previous, hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(entry.sequence as i64)
    .bind(entry.at)
    .bind(&entry.actor)
    .bind(&entry.tenant)
    .bind(entry.action)
    .bind(entry.target.as_bytes().as_slice())
    .bind(entry.previous.as_bytes().as_slice())
    .bind(entry.hash.as_bytes().as_slice())
    .execute(tx)
    .await?;
    Ok(())
}

async fn last(tx: &mut Connection) -> Result<Option<Point>> {
    let row = sqlx::query("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1").fetch_optional(tx).await?;
    let point = |row: Row| Ok(Point { sequence: row.try_get::<i64, _>("sequence")? as u64, hash: hash(&row, "hash")? });
    row.map(point).transpose()
}

/// The entries after `sequence`, in order, `limit` at most.
pub(crate) async fn after(tx: &mut Connection, sequence: u64, limit: u32) -> Result<Vec<Entry>> {
    let rows = sqlx::query(
        "SELECT sequence, at, actor, tenant, action, target, previous, hash FROM audit
         WHERE sequence > $1 ORDER BY sequence LIMIT $2",
    )
    .bind(sequence as i64)
    .bind(i64::from(limit))
    .fetch_all(tx)
    .await?;
    rows.iter().map(decode).collect()
}

fn decode(row: &Row) -> Result<Entry> {
    Ok(Entry {
        sequence: row.try_get::<i64, _>("sequence")? as u64,
        at: row.try_get("at")?,
        actor: row.try_get("actor")?,
        tenant: row.try_get("tenant")?,
        action: row.try_get("action")?,
        target: hash(row, "target")?,
        previous: hash(row, "previous")?,
        hash: hash(row, "hash")?,
    })
}

pub(super) fn hash(row: &Row, column: &str) -> Result<Sha256> {
    let bytes: Vec<u8> = row.try_get(column)?;
    Ok(Sha256::from_bytes(known(column, bytes.try_into().ok())?))
}
