use likeness_proto::{Refusal, Sha256};
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{PgPool, SqlitePool};

use super::{Broken, Chain, Entry, Verified};
use crate::store::{OpenError, StoreAddress, StoreError, postgres, sqlite};

/// The audit log of a store, read without any coordinator: whoever verifies it need not trust one.
#[derive(Clone, Debug)]
pub struct AuditLog(Place);

#[derive(Clone, Debug)]
enum Place {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// Why a log was not verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not what was written.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// It cannot be read.
    #[error(transparent)]
    Unread(#[from] Refusal),
}

/// Entries that are read together.
const PAGE: u32 = 1000;

impl AuditLog {
    /// Opens the log of a store. Nothing is written there, and a coordinator may go on over it.
    ///
    /// # Errors
    /// When there is no such store.
    pub async fn open(address: &StoreAddress) -> Result<Self, OpenError> {
        match address {
            StoreAddress::Sqlite(file) => {
                let options = SqliteConnectOptions::new().filename(file).read_only(true);
                let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
                let refuse =
                    |error: sqlx::Error| OpenError::Unavailable { path: file.clone(), reason: error.to_string() };
                pool.map(|pool| Self(Place::Sqlite(pool))).map_err(refuse)
            }
            StoreAddress::Postgres(server) => {
                let options = server.as_ref().clone().application_name("likeness audit");
                let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await;
                let refuse =
                    |error: sqlx::Error| OpenError::Server { server: address.to_string(), reason: error.to_string() };
                pool.map(|pool| Self(Place::Postgres(pool))).map_err(refuse)
            }
        }
    }

    /// The entries after `sequence`, in order: a page of them. Empty: there are no more.
    ///
    /// # Errors
    /// When the store does not answer, or holds no such log.
    pub async fn after(&self, sequence: u64) -> Result<Vec<Entry>, Refusal> {
        let page = async {
            match &self.0 {
                Place::Sqlite(pool) => sqlite::audit_after(&mut *pool.acquire().await?, sequence, PAGE).await,
                Place::Postgres(pool) => postgres::audit_after(&mut *pool.acquire().await?, sequence, PAGE).await,
            }
        };
        page.await.map_err(|error: StoreError| error.into())
    }

    /// Walks the log from its first entry to its last; `noted`: a head that it had once, which it must still hold.
    ///
    /// # Errors
    /// The first entry that is not what was written, or why the log cannot be read.
    pub async fn verify(&self, noted: Option<Sha256>) -> Result<Verified, VerifyError> {
        let (mut chain, mut last) = (Chain::new(noted), 0);
        loop {
            let page = self.after(last).await?;
            page.iter().try_for_each(|entry| chain.follow(entry))?;
            match page.last() {
                Some(entry) => last = entry.sequence,
                None => return Ok(chain.end()?),
            }
        }
    }
}
