//! Connecting, and bringing the tables up to date.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::dialect::CONNECTIONS;
use super::turn::Writer;
use super::{PostgresStore, notices};
use crate::clock::Clock;
use crate::store::address::address;
use crate::store::{OpenError, Policy};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations/postgres");

/// The newest migration of this release.
pub(crate) fn newest() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// How long a call may wait for a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the server gives a session. A coordinator that hangs in the middle of a transaction must not hold its locks for good.
const LIMITS: [(&str, &str); 3] =
    [("lock_timeout", "5s"), ("statement_timeout", "30s"), ("idle_in_transaction_session_timeout", "15s")];

impl PostgresStore {
    /// Connects, and makes the tables or brings them up to date: one coordinator at a time, the others wait.
    /// `clock`: instead of the server's.
    pub(crate) async fn open(
        options: &PgConnectOptions,
        clock: Option<Arc<dyn Clock>>,
        policy: Policy,
    ) -> Result<Self, OpenError> {
        let server = address(options);
        let refuse =
            |error: &dyn std::fmt::Display| OpenError::Server { server: server.clone(), reason: error.to_string() };
        let options = options.clone().application_name("likeness");
        let migrating = pool(1).connect_with(options.clone()).await.map_err(|error| refuse(&error))?;
        // Waits for whoever is at it already, by an advisory lock.
        MIGRATIONS.run(&migrating).await.map_err(|error| match error {
            MigrateError::VersionMissing(version) => OpenError::TooNew { place: server.clone(), version },
            other => refuse(&other),
        })?;
        migrating.close().await;
        let pool = pool(CONNECTIONS).connect_with(options.options(LIMITS)).await.map_err(|error| refuse(&error))?;
        let signals = notices::exchange(&pool);
        Ok(Self { writer: Writer(pool.clone()), readers: pool, clock, policy, signals })
    }
}

fn pool(connections: u32) -> PgPoolOptions {
    // A connection that has died is noticed by the first statement on it, which costs nobody else a round trip.
    PgPoolOptions::new().max_connections(connections).acquire_timeout(PATIENCE).test_before_acquire(false)
}

/// A pool of the same database for one purpose.
pub(super) fn aside(of: &PgPool) -> PgPool {
    pool(1).connect_lazy_with((*of.connect_options()).clone())
}
