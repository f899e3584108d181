//! Opening the file, and what can be wrong with it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::SqliteStore;
use super::dialect::{CONNECTIONS, Connection};
use super::turn::Writer;
use crate::clock::Clock;
use crate::store::faults::sqlite_code;
use crate::store::{OpenError, Policy, Signals};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations/sqlite");

/// The newest migration of this release.
pub(crate) fn newest() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

impl SqliteStore {
    /// Opens or makes the file and brings its tables up to date.
    pub(crate) async fn open(
        path: &Path,
        clock: Option<Arc<dyn Clock>>,
        policy: Policy,
    ) -> std::result::Result<Self, OpenError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let mut writer = options.connect().await.map_err(|error| sort(path, error))?;
        whole(&mut writer).await.map_err(|reason| OpenError::Corrupt { path: path.to_owned(), reason })?;
        MIGRATIONS.run_direct(None, &mut writer, false).await.map_err(|error| from_migration(path, error))?;
        // The file is one process's at a time: what an earlier one was at ended with it, and is
        // taken back at once.
        for statement in ["UPDATE uploads SET deadline = 0", "UPDATE erasures SET held = 0", "DELETE FROM turns"] {
            sqlx::query(statement).execute(&mut writer).await.map_err(|error| sort(path, error))?;
        }
        let writer = Writer::new(options.clone(), writer);
        let readers = readers().connect_with(options.read_only(true)).await.map_err(|error| sort(path, error))?;
        Ok(Self { writer, readers, clock, policy, signals: Arc::new(Signals::new(None)) })
    }
}

fn readers() -> SqlitePoolOptions {
    let readers = SqlitePoolOptions::new().max_connections(CONNECTIONS).min_connections(1);
    // A file does not go away as a server does.
    readers.idle_timeout(None).max_lifetime(None).test_before_acquire(false)
}

/// Looks for damage that would otherwise show up in the middle of the work.
async fn whole(file: &mut Connection) -> std::result::Result<(), String> {
    let check: std::result::Result<String, _> = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(file).await;
    match check {
        Ok(answer) if answer == "ok" => Ok(()),
        Ok(damage) => Err(damage),
        Err(error) => Err(error.to_string()),
    }
}

fn from_migration(path: &Path, error: MigrateError) -> OpenError {
    match error {
        MigrateError::VersionMissing(version) => OpenError::TooNew { place: path.display().to_string(), version },
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => sort(path, error),
        other => OpenError::Unavailable { path: path.to_owned(), reason: other.to_string() },
    }
}

/// Tells damage from a file that is only out of reach.
pub(crate) fn sort(path: &Path, error: sqlx::Error) -> OpenError {
    const CORRUPT: i64 = 11;
    const NOT_A_DATABASE: i64 = 26;
    let path = path.to_owned();
    match sqlite_code(&error) {
        Some(CORRUPT | NOT_A_DATABASE) => OpenError::Corrupt { path, reason: error.to_string() },
        Some(_) | None => OpenError::Unavailable { path, reason: error.to_string() },
    }
}
