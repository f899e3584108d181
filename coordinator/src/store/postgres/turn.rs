//! Transactions that write, each on a connection of its own: the server commits in groups.

use std::ops::{Deref, DerefMut};

use sqlx::PgPool;
use sqlx::pool::PoolConnection;

use super::dialect::{Connection, Db};
use crate::store::StoreError;

type Result<T> = std::result::Result<T, StoreError>;

pub(crate) struct Writer(pub(super) PgPool);

/// A transaction that writes. The connection of one that did not end in order is closed, which undoes it, rather than used again.
pub(crate) struct Turn {
    connection: PoolConnection<Db>,
    is_open: bool,
}

impl Writer {
    pub(crate) async fn begin(&self) -> Result<Turn> {
        let mut turn = Turn { connection: self.0.acquire().await?, is_open: true };
        sqlx::query("BEGIN").execute(&mut *turn).await?;
        Ok(turn)
    }

    pub(crate) async fn close(&self) {
        self.0.close().await;
    }
}

impl Turn {
    pub(crate) async fn commit(mut self) -> Result<()> {
        self.end("COMMIT").await
    }

    /// Ends and undoes what was done.
    pub(crate) async fn roll_back(mut self) {
        // When this fails the connection is closed, which does the same.
        let _ended = self.end("ROLLBACK").await;
    }

    async fn end(&mut self, statement: &'static str) -> Result<()> {
        sqlx::query(statement).execute(&mut *self.connection).await?;
        self.is_open = false;
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_open {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for Turn {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}
