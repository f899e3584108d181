//! Sessions of the status page that were signed out of.

use std::time::Duration;

use super::{Connection, Result, Writing};
use crate::clock::Timestamp;
use crate::store::SessionId;

/// A coordinator's clock, by which a session ends, is off by less than this.
const SPARE: Duration = Duration::from_secs(24 * 3600);

/// Remembers the session until it would have ended anyway, and no longer those that would have.
pub(super) async fn end(w: &mut Writing, session: &SessionId, ends: Timestamp) -> Result<()> {
    sqlx::query("DELETE FROM ended_sessions WHERE ends <= $1").bind(w.now.millis()).execute(&mut *w.tx).await?;
    sqlx::query("INSERT INTO ended_sessions (id, ends) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING")
        .bind(session.as_slice())
        .bind((ends + SPARE).millis())
        .execute(&mut *w.tx)
        .await?;
    Ok(())
}

pub(super) async fn has_ended(tx: &mut Connection, session: &SessionId) -> Result<bool> {
    let ended = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM ended_sessions WHERE id = $1)");
    Ok(ended.bind(session.as_slice()).fetch_one(tx).await?)
}
