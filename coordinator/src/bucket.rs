//! The bucket, as far as the coordinator touches it: photos in, downloads out, and sweeping.

use std::error::Error;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use likeness_proto::{ErrorCode, ObjectKey, ObjectRef, Prefix, Refusal};
use object_store::path::Path;
use object_store::signer::{Method, Signer};
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

/// An object as the bucket lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) key: ObjectKey,
    pub(crate) size: u64,
}

/// A handle, cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    links: Option<Arc<dyn Signer>>,
}

/// How long a link opens its object.
pub(crate) const LINK_LIFE: Duration = Duration::from_secs(10 * 60);

impl Bucket {
    /// `links`: signs links to objects, where the bucket knows such.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, links: Option<Arc<dyn Signer>>) -> Self {
        Self { store, links }
    }

    /// A link to an object; `None` where the bucket knows none.
    pub(crate) async fn link(&self, key: &ObjectKey) -> Result<Option<String>, Refusal> {
        let Some(links) = &self.links else { return Ok(None) };
        let signed = links.signed_url(Method::GET, &path(key), LINK_LIFE).await;
        signed.map(|url| Some(url.into())).map_err(|error| failed("link to", key.as_str(), &error))
    }

    /// Writes and removes a small object: better to find out now than at the first photo.
    pub(crate) async fn probe(&self) -> Result<(), Refusal> {
        let path = Path::from(format!("probe/{}", uuid::Uuid::new_v4()));
        let probed = async {
            self.store.put(&path, PutPayload::from_static(b"probe")).await?;
            self.store.delete(&path).await
        };
        probed.await.map_err(|error| failed("write to", path.as_ref(), &error))
    }

    /// Stores an object. It is there as a whole or not at all.
    pub(crate) async fn put(&self, key: &ObjectKey, bytes: Vec<u8>) -> Result<(), Refusal> {
        let put = self.store.put(&path(key), bytes.into()).await;
        put.map(drop).map_err(|error| failed("write", key.as_str(), &error))
    }

    /// Refuses an object that is not there or has another size than said.
    pub(crate) async fn check(&self, object: &ObjectRef) -> Result<(), Refusal> {
        let key = &object.key;
        match self.store.head(&path(key)).await {
            Ok(meta) if meta.size == object.size => Ok(()),
            Ok(meta) => {
                let message = format!("object {key} has {} bytes, not the {} reported", meta.size, object.size);
                Err(Refusal::new(ErrorCode::ObjectCorrupt, message))
            }
            Err(object_store::Error::NotFound { .. }) => Err(Refusal::new(
                ErrorCode::UnknownObject,
                format!("object {key} is not in the bucket; write it first"),
            )),
            Err(error) => Err(failed("look up", key.as_str(), &error)),
        }
    }

    /// The bytes of an object as they come.
    pub(crate) async fn read(&self, key: &ObjectKey) -> Result<BoxStream<'static, Result<Vec<u8>, Refusal>>, Refusal> {
        let name = key.to_string();
        let got = self.store.get(&path(key)).await.map_err(|error| match error {
            object_store::Error::NotFound { .. } => {
                Refusal::new(ErrorCode::ObjectCorrupt, format!("object {name} is missing from the bucket"))
            }
            other => failed("read", &name, &other),
        })?;
        let bytes = got.into_stream().map_ok(|bytes| bytes.to_vec());
        Ok(bytes.map_err(move |error| failed("read", &name, &error)).boxed())
    }

    /// Everything there is.
    pub(crate) fn list_all(&self) -> BoxStream<'static, Result<Listed, Refusal>> {
        let listed = self.store.list(Some(&Path::from("v1"))).map_err(|error| failed("list", "all", &error));
        let keyed = listed.try_filter_map(async |meta| {
            let key = meta.location.as_ref().parse().ok();
            Ok(key.map(|key| Listed { key, size: meta.size }))
        });
        keyed.boxed()
    }

    /// Everything under a prefix. Names that are no keys of ours are left out: nothing of ours wrote them.
    pub(crate) async fn list(&self, prefix: &Prefix) -> Result<Vec<Listed>, Refusal> {
        let path = Path::from(prefix.as_str().trim_end_matches('/'));
        let listed = self.store.list(Some(&path)).map_err(|error| failed("list", prefix.as_str(), &error));
        let keyed = listed.try_filter_map(async |meta| {
            let key = meta.location.as_ref().parse().ok();
            Ok(key.map(|key| Listed { key, size: meta.size }))
        });
        keyed.try_collect().await
    }

    /// Removes an object; one that is gone already is no error.
    pub(crate) async fn delete(&self, key: &ObjectKey) -> Result<(), Refusal> {
        match self.store.delete(&path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("delete", key.as_str(), &error)),
        }
    }
}

fn path(key: &ObjectKey) -> Path {
    Path::from(key.as_str())
}

fn failed(action: &str, what: &str, error: &object_store::Error) -> Refusal {
    if is_full(error) {
        let message =
            format!("cannot {action} {what}: the disk under the bucket is full; free some space and try again");
        return Refusal::new(ErrorCode::StorageFull, message);
    }
    let message = format!("cannot {action} {what} in the bucket: {error}; it must exist and be writable");
    Refusal::new(ErrorCode::StorageUnavailable, message)
}

/// Whether somewhere below the error a disk, a quota or the room for one file is full.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    use ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let full = |error: &std::io::Error| matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge);
    error.downcast_ref().is_some_and(full) || error.source().is_some_and(is_full)
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn key(text: &str) -> ObjectKey {
        format!("v1/acme/ada/{text}").parse().unwrap()
    }

    #[test]
    fn a_full_disk_is_told_from_other_faults() {
        let fault = |kind: ErrorKind| object_store::Error::Generic {
            store: "test",
            source: Box::new(std::io::Error::from(kind)),
        };
        assert_eq!(failed("write", "x", &fault(ErrorKind::StorageFull)).code, ErrorCode::StorageFull);
        assert_eq!(failed("write", "x", &fault(ErrorKind::PermissionDenied)).code, ErrorCode::StorageUnavailable);
    }

    #[tokio::test]
    async fn an_object_must_be_there_with_the_size_said() {
        let bucket = Bucket::new(Arc::new(InMemory::new()), None);
        let object = ObjectRef::of(key("train/t/1/embedding.safetensors"), b"vectors");
        assert_eq!(bucket.check(&object).await.unwrap_err().code, ErrorCode::UnknownObject);
        bucket.put(&object.key, b"vec".to_vec()).await.unwrap();
        assert_eq!(bucket.check(&object).await.unwrap_err().code, ErrorCode::ObjectCorrupt);
        bucket.put(&object.key, b"vectors".to_vec()).await.unwrap();
        bucket.check(&object).await.unwrap();
    }

    #[tokio::test]
    async fn a_subject_is_listed_without_those_whose_names_begin_alike() {
        let bucket = Bucket::new(Arc::new(InMemory::new()), None);
        for name in ["v1/acme/ada/photos/a.png", "v1/acme/ada-2/photos/b.png"] {
            bucket.put(&name.parse().unwrap(), vec![1]).await.unwrap();
        }
        let listed = bucket.list(&"v1/acme/ada/".parse().unwrap()).await.unwrap();
        assert_eq!(listed, [Listed { key: key("photos/a.png"), size: 1 }]);
    }
}
