//! Opening the file, and what can be wrong with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::SqliteStore;
use crate::clock::Clock;
use crate::store::{Policy, Signals};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

const READERS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is no SQLite database, or a broken one.
    #[error("{path} is no readable SQLite database ({reason}); move it away to begin anew, or restore a backup")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// The file was written by a newer release.
    #[error("{path} was written by a newer release (it has migration {version}); run that release or a newer one")]
    TooNew {
        /// The file.
        path: PathBuf,
        /// The first migration that this release does not know.
        version: i64,
    },
    /// The file cannot be opened or changed.
    #[error("{path} cannot be opened as a store: {reason}; its folder must exist and be writable")]
    Unavailable {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
}

impl SqliteStore {
    /// Opens or makes the file and brings its tables up to date.
    pub(crate) async fn open(
        path: &Path,
        clock: Arc<dyn Clock>,
        policy: Policy,
    ) -> std::result::Result<Self, OpenError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = pool(1).connect_with(options.clone()).await.map_err(|error| sort(path, error))?;
        whole(&writer).await.map_err(|reason| OpenError::Corrupt { path: path.to_owned(), reason })?;
        MIGRATIONS.run(&writer).await.map_err(|error| from_migration(path, error))?;
        // The file is one process's at a time: uploads of an earlier one ended with it, and are taken back at once.
        sqlx::query("UPDATE uploads SET deadline = 0").execute(&writer).await.map_err(|error| sort(path, error))?;
        let readers = pool(READERS).connect_with(options.read_only(true)).await.map_err(|error| sort(path, error))?;
        Ok(Self { writer, readers, clock, policy, signals: Arc::new(Signals::default()) })
    }

    /// Ends every connection, so that the file may be opened by another.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(connections).min_connections(1).idle_timeout(None).max_lifetime(None)
}

/// Looks for damage that would otherwise show up in the middle of the work.
async fn whole(pool: &SqlitePool) -> std::result::Result<(), String> {
    let check: std::result::Result<String, _> = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(pool).await;
    match check {
        Ok(answer) if answer == "ok" => Ok(()),
        Ok(damage) => Err(damage),
        Err(error) => Err(error.to_string()),
    }
}

fn from_migration(path: &Path, error: MigrateError) -> OpenError {
    match error {
        MigrateError::VersionMissing(version) => OpenError::TooNew { path: path.to_owned(), version },
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => sort(path, error),
        other => OpenError::Unavailable { path: path.to_owned(), reason: other.to_string() },
    }
}

/// Tells damage from a file that is only out of reach.
fn sort(path: &Path, error: sqlx::Error) -> OpenError {
    const CORRUPT: i64 = 11;
    const NOT_A_DATABASE: i64 = 26;
    let path = path.to_owned();
    match primary_code(&error) {
        Some(CORRUPT | NOT_A_DATABASE) => OpenError::Corrupt { path, reason: error.to_string() },
        Some(_) | None => OpenError::Unavailable { path, reason: error.to_string() },
    }
}

/// SQLite's result code without its extension.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<i64> {
    let code: i64 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xFF)
}
