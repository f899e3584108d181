//! The bucket, as far as the coordinator touches it: photos in, downloads out, and sweeping.

mod history;
mod tombstones;

use std::collections::BTreeMap;
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

pub use history::{History, Relic, RelicKind};

/// An object as the bucket lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) key: ObjectKey,
    /// Of the present version, or of the largest that is kept.
    pub(crate) size: u64,
}

/// A handle, cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    links: Option<Arc<dyn Signer>>,
    history: Option<Arc<dyn History>>,
}

/// How long a link opens its object.
pub(crate) const LINK_LIFE: Duration = Duration::from_secs(10 * 60);

impl Bucket {
    /// `links`: signs links to objects, where the bucket knows such.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, links: Option<Arc<dyn Signer>>) -> Self {
        Self { store, links, history: None }
    }

    /// The same, with what it keeps beside its objects.
    pub(crate) fn with_history(self, history: Option<Arc<dyn History>>) -> Self {
        Self { history, ..self }
    }

    /// A link to an object; `None` where the bucket knows none.
    pub(crate) async fn link(&self, key: &ObjectKey) -> Result<Option<String>, Refusal> {
        let Some(links) = &self.links else { return Ok(None) };
        let signed = links.signed_url(Method::GET, &path(key), LINK_LIFE).await;
        signed.map(|url| Some(url.into())).map_err(|error| failed("link to", key.as_str(), &error))
    }

    /// Writes and removes a small object: better to find out now than at the first photo. Always the same one, so that what a process
    /// leaves that dies in between goes with the next start.
    pub(crate) async fn probe(&self) -> Result<(), Refusal> {
        let path = Path::from("probe/coordinator");
        let probed = async {
            self.store.put(&path, PutPayload::from_static(b"probe")).await?;
            match self.relics(&Path::from("probe")).await?.remove(&path) {
                Some(relics) => self.erase(&relics).await,
                None => match self.store.delete(&path).await {
                    // Another coordinator starts, too.
                    Err(object_store::Error::NotFound { .. }) => Ok(()),
                    deleted => deleted,
                },
            }
        };
        probed.await.map_err(|error| failed("write to", path.as_ref(), &error))
    }

    /// Whether the bucket answers: looks for an object that need not be there.
    pub(crate) async fn answers(&self) -> Result<(), Refusal> {
        let path = Path::from("probe/coordinator");
        match self.store.head(&path).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("look up", path.as_ref(), &error)),
        }
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

    /// Everything there is, and then everything that is kept of what there was.
    pub(crate) fn list_all(&self) -> BoxStream<'static, Result<Listed, Refusal>> {
        self.traces(&Path::from("v1"))
    }

    /// Everything under a prefix, each key once, also those of which only older versions are kept.
    pub(crate) async fn list(&self, prefix: &Prefix) -> Result<Vec<Listed>, Refusal> {
        let mut sizes = BTreeMap::<ObjectKey, u64>::new();
        let mut traces = self.traces(&Path::from(prefix.as_str().trim_end_matches('/')));
        while let Some(Listed { key, size }) = traces.try_next().await? {
            let known = sizes.entry(key).or_default();
            // A present version is told twice.
            *known = size.max(*known);
        }
        Ok(sizes.into_iter().map(|(key, size)| Listed { key, size }).collect())
    }

    /// Objects, then what is kept beside them. Names that are no keys of ours are left out: nothing of ours wrote them.
    fn traces(&self, under: &Path) -> BoxStream<'static, Result<Listed, Refusal>> {
        let objects = self.store.list(Some(under)).map_ok(|meta| (meta.location, meta.size));
        let kept = self.history.as_ref().map(|history| history.kept(under).map_ok(|relic| (relic.path, relic.size)));
        let all = objects.chain(futures::stream::iter(kept).flatten());
        let place = under.to_string();
        let keyed = all.try_filter_map(async |(path, size)| {
            let key = path.as_ref().parse().ok();
            Ok(key.map(|key| Listed { key, size }))
        });
        keyed.map_err(move |error| failed("list", &place, &error)).boxed()
    }

    /// Removes objects under a prefix, with all that is kept of them; what is gone already is no error.
    pub(crate) async fn delete(&self, prefix: &Prefix, keys: &[ObjectKey]) -> Result<(), Refusal> {
        if keys.is_empty() {
            return Ok(());
        }
        let under = Path::from(prefix.as_str().trim_end_matches('/'));
        let kept = self.relics(&under).await.map_err(|error| failed("list", prefix.as_str(), &error))?;
        for key in keys {
            let path = path(key);
            let relics = kept.get(&path).map_or(&[][..], Vec::as_slice);
            match self.delete_one(&path, relics).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed("delete", key.as_str(), &error)),
            }
        }
        Ok(())
    }

    async fn delete_one(&self, path: &Path, relics: &[Relic]) -> object_store::Result<()> {
        self.erase(relics).await?;
        // Where versions are kept, a plain delete would only add a mark, even to what is not there.
        match relics {
            [] => self.store.delete(path).await,
            _ if relics.iter().any(|relic| matches!(relic.kind, RelicKind::Version(_))) => Ok(()),
            _uploads => {
                self.store.head(path).await?;
                self.store.delete(path).await
            }
        }
    }

    /// All that is kept beside objects under a prefix, by their places.
    async fn relics(&self, under: &Path) -> object_store::Result<BTreeMap<Path, Vec<Relic>>> {
        let mut relics = BTreeMap::<_, Vec<_>>::new();
        if let Some(history) = &self.history {
            let mut kept = history.kept(under);
            while let Some(relic) = kept.try_next().await? {
                relics.entry(relic.path.clone()).or_default().push(relic);
            }
        }
        Ok(relics)
    }

    async fn erase(&self, relics: &[Relic]) -> object_store::Result<()> {
        if let Some(history) = &self.history {
            for relic in relics {
                history.erase(relic).await?;
            }
        }
        Ok(())
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
    async fn what_a_probe_left_goes_with_the_next_one() {
        let memory = Arc::new(InMemory::new());
        memory.put(&Path::from("probe/coordinator"), PutPayload::from_static(b"probe")).await.unwrap();
        Bucket::new(memory.clone(), None).probe().await.unwrap();
        assert!(memory.list(None).next().await.is_none());
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

    /// Relics, until they are erased.
    #[derive(Debug)]
    struct Kept(Arc<std::sync::Mutex<Vec<Relic>>>);

    impl History for Kept {
        fn kept(&self, under: &Path) -> BoxStream<'static, object_store::Result<Relic>> {
            let relics: Vec<_> = self.0.lock().unwrap().iter().map(|relic| Ok(relic.clone())).collect();
            let under = under.clone();
            let inside = move |relic: &object_store::Result<Relic>| {
                let inside = relic.as_ref().is_ok_and(|relic| relic.path.prefix_matches(&under));
                std::future::ready(inside)
            };
            futures::stream::iter(relics).filter(inside).boxed()
        }

        fn erase<'a>(&'a self, relic: &'a Relic) -> futures::future::BoxFuture<'a, object_store::Result<()>> {
            self.0.lock().unwrap().retain(|kept| kept != relic);
            Box::pin(std::future::ready(Ok(())))
        }
    }

    fn relic(name: &str, kind: RelicKind) -> Relic {
        Relic { path: path(&key(name)), kind, size: 5 }
    }

    #[tokio::test]
    async fn what_is_kept_of_an_object_is_found_and_goes_with_it() {
        let version = |id: &str| RelicKind::Version(id.into());
        let other = relic("photos/other.png", version("9"));
        let relics = vec![
            relic("photos/gone.png", version("1")),
            relic("photos/gone.png", version("mark")),
            relic("render/half.png", RelicKind::Upload("2".into())),
            other.clone(),
        ];
        let kept = Arc::new(std::sync::Mutex::new(relics));
        let bucket = Bucket::new(Arc::new(InMemory::new()), None).with_history(Some(Arc::new(Kept(kept.clone()))));
        bucket.put(&key("photos/there.png"), vec![1]).await.unwrap();
        let prefix: Prefix = "v1/acme/ada/".parse().unwrap();
        let listed = bucket.list(&prefix).await.unwrap();
        let all: Vec<_> = listed.iter().map(|object| (object.key.file_name(), object.size)).collect();
        assert_eq!(all, [("gone.png", 5), ("other.png", 5), ("there.png", 1), ("half.png", 5)]);

        let go = [key("photos/gone.png"), key("photos/there.png"), key("render/half.png")];
        bucket.delete(&prefix, &go).await.unwrap();
        assert_eq!(*kept.lock().unwrap(), [other]);
        assert_eq!(bucket.list(&prefix).await.unwrap().len(), 1);
    }
}
