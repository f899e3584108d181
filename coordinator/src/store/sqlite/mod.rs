//! The embedded engine: one SQLite file, one writer, several readers.

mod dialect;
mod open;
#[path = "../sql/mod.rs"]
mod sql;
mod turn;

#[cfg(test)]
mod tests;

pub(crate) use open::{newest, sort};
pub(crate) use sql::Engine as SqliteStore;
pub(crate) use sql::audit_after;
