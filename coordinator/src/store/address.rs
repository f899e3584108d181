//! Where a store lies, and what can be wrong with it there.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

/// Where a coordinator remembers.
#[derive(Clone)]
pub enum StoreAddress {
    /// A SQLite file; made when it is not there.
    Sqlite(PathBuf),
    /// A Postgres database. What its address leaves out comes from the standard variables and the password file of Postgres.
    Postgres(Box<PgConnectOptions>),
}

/// No address of a store.
#[derive(Debug, thiserror::Error)]
#[error("the store `{shown}` is not accepted ({why}); sqlite:FILE or postgres://USER@HOST/DATABASE is")]
pub struct NoStore {
    shown: String,
    why: String,
}

impl FromStr for StoreAddress {
    type Err = NoStore;

    fn from_str(text: &str) -> Result<Self, NoStore> {
        // The rest of an address that is none may hold a password.
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
        let refuse = |why: String| NoStore { shown: format!("{scheme}:…"), why };
        match (scheme, text.strip_prefix("sqlite:")) {
            (_, Some("")) => Err(refuse("it names no file".into())),
            (_, Some(file)) => Ok(Self::Sqlite(file.trim_start_matches("//").into())),
            ("postgres" | "postgresql", None) => {
                let options = text.parse().map_err(|error: sqlx::Error| refuse(error.to_string()))?;
                Ok(Self::Postgres(Box::new(options)))
            }
            _ => Err(refuse("it begins neither with sqlite: nor with postgres:".into())),
        }
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => write!(f, "sqlite:{}", file.display()),
            Self::Postgres(options) => f.write_str(&address(options)),
        }
    }
}

impl fmt::Debug for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The address of a database without its password.
pub(super) fn address(options: &PgConnectOptions) -> String {
    let (user, host, port) = (options.get_username(), options.get_host(), options.get_port());
    format!("postgres://{user}@{host}:{port}/{}", options.get_database().unwrap_or(user))
}

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
    #[error("{place} was written by a newer release (it has migration {version}); run that release or a newer one")]
    TooNew {
        /// The file or database.
        place: String,
        /// The first migration that this release does not know.
        version: i64,
    },
    /// The server cannot be reached, does not let this user in, or cannot hold the tables.
    #[error(
        "the database {server} cannot be opened as a store: {reason}; it must exist, and its owner be named in the address"
    )]
    Server {
        /// The database's address, without a password.
        server: String,
        /// What the server says.
        reason: String,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_file_or_a_server() {
        let shown = |text: &str| text.parse::<StoreAddress>().unwrap().to_string();
        assert_eq!(shown("sqlite:/var/lib/likeness.db"), "sqlite:/var/lib/likeness.db");
        assert_eq!(shown("postgres://ada@db:6432/likeness"), "postgres://ada@db:6432/likeness");
        for text in ["", "likeness.db", "sqlite:", "mysql://db/likeness", "/var/lib/likeness.db"] {
            assert!(text.parse::<StoreAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let place: StoreAddress = "postgres://ada:hunter2@db/likeness".parse().unwrap();
        assert!(!format!("{place} {place:?}").contains("hunter2"));
        for text in ["postgres://ada:hunter2@db:port/x", "mysql://ada:hunter2@db/x"] {
            let error = text.parse::<StoreAddress>().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }
}
