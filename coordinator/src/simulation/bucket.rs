//! The bucket as a host sees it: slow, failing, full, or cut short.

use std::fmt;
use std::io::{Error, ErrorKind};
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::time::sleep;

use super::chance::{Chance, Kind};

pub(super) struct Faulty {
    pub(super) inner: Arc<InMemory>,
    pub(super) chance: Arc<Chance>,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

fn failed(kind: ErrorKind, what: &'static str) -> object_store::Error {
    object_store::Error::Generic { store: "simulation", source: Box::new(Error::new(kind, what)) }
}

impl Faulty {
    /// The way to the bucket.
    async fn reach(&self, what: &str, path: &Path) -> Result<()> {
        let slow = self.chance.strikes(Kind::BucketSlow, 40);
        sleep(if slow { self.chance.millis(1000, 8000) } else { self.chance.millis(1, 20) }).await;
        self.chance.note(format_args!("bucket: {what} {path}"));
        if self.chance.strikes(Kind::Bucket500, 40) {
            return Err(failed(ErrorKind::Other, "500 Internal Server Error"));
        }
        if self.chance.strikes(Kind::Bucket503, 40) {
            return Err(failed(ErrorKind::Other, "503 Slow Down"));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.reach("put", location).await?;
        if self.chance.strikes(Kind::BucketFull, 20) {
            return Err(failed(ErrorKind::StorageFull, "no space left on device"));
        }
        let put = self.inner.put_opts(location, payload, opts).await;
        if self.chance.strikes(Kind::BucketUnanswered, 20) {
            return Err(failed(ErrorKind::ConnectionReset, "connection closed before message completed"));
        }
        put
    }

    async fn put_multipart_opts(&self, path: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.reach("put", path).await?;
        self.inner.put_multipart_opts(path, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.reach(if options.head { "head" } else { "get" }, location).await?;
        let is_head = options.head;
        let got = self.inner.get_opts(location, options).await?;
        if is_head || !self.chance.strikes(Kind::BucketTruncated, 20) {
            return Ok(got);
        }
        let (meta, range, attributes, extensions) =
            (got.meta.clone(), got.range.clone(), got.attributes.clone(), got.extensions.clone());
        let bytes = got.bytes().await?;
        let half = Ok(bytes.slice(..bytes.len() / 2));
        let cut = Err(failed(ErrorKind::UnexpectedEof, "end of file before message length reached"));
        let payload = GetResultPayload::Stream(futures::stream::iter([half, cut]).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = Self { inner: Arc::clone(&self.inner), chance: Arc::clone(&self.chance) };
        let deleted = locations.then(move |location| {
            let this = Self { inner: Arc::clone(&this.inner), chance: Arc::clone(&this.chance) };
            async move {
                let location = location?;
                this.reach("delete", &location).await?;
                object_store::ObjectStoreExt::delete(&*this.inner, &location).map_ok(|()| location.clone()).await
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.chance.strikes(Kind::Bucket503, 10) {
            return futures::stream::iter([Err(failed(ErrorKind::Other, "503 Slow Down"))]).boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
