//! The bucket as one lease may use it: read what is named, write under the lease's own prefix.

use std::{error::Error, io, sync::Arc};

use likeness_proto::{ErrorCode, IdError, ObjectKey, ObjectRef, Prefix, Sha256};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};

use crate::WorkError;

/// The bucket, with the prefix that may be written to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Prefix,
}

/// Why an object was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// Its bytes are not what its reference says.
    #[error("object {key} is corrupt: {why}; put it again or submit the job anew")]
    Corrupt {
        /// The object.
        key: ObjectKey,
        /// What differs.
        why: String,
    },
    /// There is no such object.
    #[error("object {key} is not in the bucket; it was erased or never written")]
    Missing {
        /// The object.
        key: ObjectKey,
    },
    /// The disk under the bucket is full. Nothing of the object can be seen.
    #[error("the disk under the bucket is full while writing object {key}; free some space")]
    Full {
        /// The object.
        key: ObjectKey,
    },
    /// The bucket does not answer or refuses.
    #[error("the bucket failed at object {key}: {source}")]
    Failed {
        /// The object.
        key: ObjectKey,
        /// What the bucket says.
        source: object_store::Error,
    },
    /// The name cannot stand in a key.
    #[error(transparent)]
    Name(#[from] IdError),
}

impl BucketError {
    /// The code on the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Corrupt { .. } => ErrorCode::ObjectCorrupt,
            Self::Missing { .. } => ErrorCode::UnknownObject,
            Self::Full { .. } => ErrorCode::StorageFull,
            Self::Failed { .. } => ErrorCode::StorageUnavailable,
            Self::Name(_) => ErrorCode::Internal,
        }
    }

    /// Whether another try may help.
    fn retry(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Failed { .. } => true,
            Self::Corrupt { .. } | Self::Missing { .. } | Self::Name(_) => false,
        }
    }

    fn of(key: &ObjectKey, source: object_store::Error) -> Self {
        let key = key.clone();
        match source {
            object_store::Error::NotFound { .. } => Self::Missing { key },
            source if is_full(&source) => Self::Full { key },
            source => Self::Failed { key, source },
        }
    }
}

impl From<BucketError> for WorkError {
    fn from(error: BucketError) -> Self {
        Self::Failed { code: error.code(), message: error.to_string(), retry: error.retry() }
    }
}

impl Bucket {
    /// The bucket `store`; writes go under `prefix`.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Prefix) -> Self {
        Self { store, prefix }
    }

    /// Reads an object whole and checks its length and digest.
    ///
    /// # Errors
    /// When it is missing, unreadable or other bytes than `object` says; the key is named.
    pub async fn get(&self, object: &ObjectRef) -> Result<Vec<u8>, BucketError> {
        let key = &object.key;
        let found = self.store.get(&Path::from(key.as_str())).await.map_err(|source| BucketError::of(key, source))?;
        check(key, "length", object.size, found.meta.size)?;
        let bytes = found.bytes().await.map_err(|source| BucketError::of(key, source))?;
        check(key, "length", object.size, bytes.len() as u64)?;
        check(key, "sha256", object.sha256, Sha256::of(&bytes))?;
        Ok(bytes.into())
    }

    /// Writes an object under the lease's prefix, whole or not at all.
    ///
    /// # Errors
    /// When `name` is no file name, the disk is full or the bucket refuses; the key is named.
    pub async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<ObjectRef, BucketError> {
        let key = self.prefix.key(name)?;
        let object = ObjectRef::of(key, &bytes);
        let path = Path::from(object.key.as_str());
        self.store.put(&path, bytes.into()).await.map_err(|source| BucketError::of(&object.key, source))?;
        Ok(object)
    }
}

fn check<T: PartialEq + std::fmt::Display>(key: &ObjectKey, what: &str, want: T, got: T) -> Result<(), BucketError> {
    if want == got {
        return Ok(());
    }
    Err(BucketError::Corrupt { key: key.clone(), why: format!("its {what} is {got}, it should be {want}") })
}

/// Whether a full disk (or a quota) is at the root of the error.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let io = error.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(io, Some(StorageFull | QuotaExceeded | FileTooLarge)) || error.source().is_some_and(is_full)
}

#[cfg(test)]
mod tests;
