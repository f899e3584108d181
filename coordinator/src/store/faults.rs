//! What the errors of the databases mean.

use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;

use super::StoreError;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        match &error {
            // The server went away, or is not a server that we know.
            sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => Self::Gone(text),
            sqlx::Error::Database(database) => {
                if let Some(error) = database.try_downcast_ref::<PgDatabaseError>() {
                    return of_postgres(error.code(), text);
                }
                match database.try_downcast_ref::<SqliteError>().and_then(|_| sqlite_code(&error)) {
                    Some(SQLITE_FULL) => Self::Full,
                    Some(_) | None => Self::Engine(text),
                }
            }
            _ => Self::Engine(text),
        }
    }
}

fn of_postgres(code: &str, text: String) -> StoreError {
    match code {
        // Serialization failure, deadlock, a lock waited for too long; a key that another transaction was quicker to insert.
        "40001" | "40P01" | "55P03" | "23505" => StoreError::Contended(text),
        "53100" => StoreError::Full,
        // Ended by an administrator or a crash, not up yet, idle for too long.
        "57P01" | "57P02" | "57P03" | "25P03" => StoreError::Gone(text),
        _ => StoreError::Engine(text),
    }
}

const SQLITE_FULL: i64 = 13;

/// SQLite's result code without its extension.
pub(super) fn sqlite_code(error: &sqlx::Error) -> Option<i64> {
    let code: i64 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xFF)
}
