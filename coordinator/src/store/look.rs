//! Looking at a store from outside: nothing is made or changed there, and a coordinator may go on over it.

use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use std::path::Path;

use super::address::address;
use super::{OpenError, StoreAddress, postgres, sqlite};

/// A store that answers, as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The newest migration that it has; none: no coordinator has opened it yet.
    pub migration: Option<i64>,
    /// The newest that this release knows, which a coordinator brings it to.
    pub known: i64,
    /// What its server's clock says, milliseconds since the Unix epoch; none: it has this machine's.
    pub clock: Option<i64>,
}

/// Asks a store how it is.
///
/// # Errors
/// As a coordinator that would open it, but that tables which are not made yet are none.
pub async fn look(place: &StoreAddress) -> Result<Found, OpenError> {
    let found = match place {
        StoreAddress::Sqlite(file) => at_file(file).await.map_err(|error| sqlite::sort(file, error))?,
        StoreAddress::Postgres(server) => at_server(server)
            .await
            .map_err(|error| OpenError::Server { server: address(server), reason: error.to_string() })?,
    };
    match found.migration {
        Some(version) if version > found.known => Err(OpenError::TooNew { place: place.to_string(), version }),
        _ => Ok(found),
    }
}

async fn at_file(file: &Path) -> sqlx::Result<Found> {
    let options = SqliteConnectOptions::new().filename(file).read_only(true);
    let mut store = options.connect().await?;
    let tables = "SELECT count(*) > 0 FROM sqlite_master WHERE name = '_sqlx_migrations'";
    let migration = match sqlx::query_scalar(tables).fetch_one(&mut store).await? {
        true => sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(&mut store).await?,
        false => None,
    };
    store.close().await?;
    Ok(Found { migration, known: sqlite::newest(), clock: None })
}

async fn at_server(server: &PgConnectOptions) -> sqlx::Result<Found> {
    let options = server.clone().application_name("likeness doctor");
    let mut store = options.connect().await?;
    let clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let clock = Some(sqlx::query_scalar(clock).fetch_one(&mut store).await?);
    let tables = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
    let migration = match sqlx::query_scalar(tables).fetch_one(&mut store).await? {
        true => sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(&mut store).await?,
        false => None,
    };
    store.close().await?;
    Ok(Found { migration, known: postgres::newest(), clock })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::sqlite::SqlitePoolOptions;

    async fn sqlite_with(statements: &[&'static str]) -> (tempfile::TempDir, StoreAddress) {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("likeness.db");
        let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        let pool = SqlitePoolOptions::new().connect_with(options).await.unwrap();
        for statement in statements {
            sqlx::query(*statement).execute(&pool).await.unwrap();
        }
        pool.close().await;
        (home, StoreAddress::Sqlite(file))
    }

    #[tokio::test]
    async fn a_store_is_told_by_its_migrations() {
        let (_home, empty) = sqlite_with(&["CREATE TABLE anything (it)"]).await;
        let found = look(&empty).await.unwrap();
        assert_eq!((found.migration, found.known, found.clock), (None, sqlite::newest(), None));

        let table = "CREATE TABLE _sqlx_migrations (version INTEGER)";
        let (_home, older) = sqlite_with(&[table, "INSERT INTO _sqlx_migrations VALUES (1), (2)"]).await;
        assert_eq!(look(&older).await.unwrap().migration, Some(2));
        let (_home, newer) = sqlite_with(&[table, "INSERT INTO _sqlx_migrations VALUES (9999)"]).await;
        assert!(matches!(look(&newer).await.unwrap_err(), OpenError::TooNew { version: 9999, .. }));
    }

    #[tokio::test]
    async fn looking_makes_nothing() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("likeness.db");
        assert!(matches!(look(&StoreAddress::Sqlite(file.clone())).await, Err(OpenError::Unavailable { .. })));
        assert!(!file.exists());
    }
}
