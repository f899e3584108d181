//! The bucket as one lease may use it: read what is named, write under the lease's own prefix.

use std::{error::Error, io, sync::Arc};

use likeness_proto::{ErrorCode, IdError, ObjectKey, ObjectRef, Prefix, Sha256};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, WriteMultipart, path::Path};

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
    /// Other bytes lie there already. What a lease has published stays as it is.
    #[error("object {key} is there already, with other bytes; a lease publishes an object once")]
    Taken {
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
            Self::Taken { .. } | Self::Name(_) => ErrorCode::Internal,
        }
    }

    /// Whether another try may help.
    fn retry(&self) -> bool {
        match self {
            // Under the next lease the name is free.
            Self::Full { .. } | Self::Failed { .. } | Self::Taken { .. } => true,
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

    /// Publishes an object under the lease's prefix, whole or not at all, and once: what lies there is never replaced. Publishing the
    /// same bytes again is no error.
    ///
    /// # Errors
    /// When `name` is no file name, other bytes lie there, the disk is full or the bucket refuses; the key is named.
    pub async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<ObjectRef, BucketError> {
        let object = ObjectRef::of(self.prefix.key(name)?, &bytes);
        let path = Path::from(object.key.as_str());
        let put = match bytes.len() {
            0..=WHOLE => self.store.put_opts(&path, bytes.into(), PutMode::Create.into()).await.map(drop),
            _ => self.put_parts(&path, &bytes).await,
        };
        match put {
            Ok(()) => Ok(object),
            Err(source @ object_store::Error::AlreadyExists { .. }) => self.found(object, source).await,
            Err(source) => Err(BucketError::of(&object.key, source)),
        }
    }

    /// An object lies where one was to be published: an earlier try of this lease, whose answer was lost, or something else.
    async fn found(&self, object: ObjectRef, source: object_store::Error) -> Result<ObjectRef, BucketError> {
        match self.get(&object).await {
            Ok(_same) => Ok(object),
            Err(BucketError::Corrupt { key, .. }) => Err(BucketError::Taken { key }),
            Err(_) => Err(BucketError::of(&object.key, source)),
        }
    }

    /// Writes a large object in parts: a fault costs one of them. S3 has no condition for these, so it is looked first; the
    /// prefix is one lease's, and a lease's writes come from one process.
    async fn put_parts(&self, path: &Path, bytes: &[u8]) -> object_store::Result<()> {
        match self.store.head(path).await {
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
            Ok(_) => {
                let (path, source) = (path.to_string(), "an object of several parts".into());
                return Err(object_store::Error::AlreadyExists { path, source });
            }
        }
        let mut parts = WriteMultipart::new_with_chunk_size(self.store.put_multipart(path).await?, PART);
        parts.write(bytes);
        parts.finish().await.map(drop)
    }
}

/// Bytes that are written in one request.
const WHOLE: usize = 16 << 20;
/// Bytes of a part.
const PART: usize = 8 << 20;

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
