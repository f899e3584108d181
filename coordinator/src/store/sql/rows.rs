//! Between rows and messages.

use prost::Message;

use super::Result;
use crate::store::StoreError;

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
