//! The fleet's engine: a Postgres database that any number of coordinators share. None of them leads: what excludes each
//! other does so by rows and locks of the database, and ends with the transaction.

mod dialect;
mod notices;
mod open;
#[path = "../sql/mod.rs"]
mod sql;
mod turn;

#[cfg(test)]
mod tests;

pub(crate) use open::newest;
pub(crate) use sql::Engine as PostgresStore;
pub(crate) use sql::audit_after;
