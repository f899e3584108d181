//! Between rows and messages.

use prost::Message;

use super::Result;
use super::open::primary_code;
use crate::store::StoreError;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        const FULL: i64 = 13;
        match primary_code(&error) {
            Some(FULL) => Self::Full,
            Some(_) | None => Self::Engine(error.to_string()),
        }
    }
}

/// Reads back a record.
pub(super) fn record<M: Message + Default>(bytes: &[u8]) -> Result<M> {
    M::decode(bytes).map_err(|error| StoreError::Record(format!("{}: {error}", std::any::type_name::<M>())))
}

/// Reads back a value that was checked when it was written.
pub(super) fn parsed<T>(column: &str, text: &str) -> Result<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| StoreError::Record(format!("{column}: {error}")))
}

/// Reads back a number or enum that was in range when it was written.
pub(super) fn known<T>(column: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| StoreError::Record(format!("{column} is out of range")))
}

/// A list as SQLite's `json_each` takes it. The values are ids, digests and numbers: nothing to escape.
pub(super) fn json_list<T: std::fmt::Display>(values: impl IntoIterator<Item = T>) -> String {
    let quoted: Vec<_> = values.into_iter().map(|value| format!("\"{value}\"")).collect();
    format!("[{}]", quoted.join(","))
}
