//! A bucket whose operations are timed.

use futures::StreamExt;
use futures::stream::BoxStream;
use likeness_telemetry::metrics::{self, Histogram, KeyValue, Stopwatch};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use std::fmt;
use std::sync::{Arc, LazyLock};

static DURATIONS: LazyLock<Histogram<f64>> = LazyLock::new(|| {
    metrics::seconds(
        "likeness.bucket.operation.duration",
        "requests to the bucket, to the head of their answer",
        metrics::CALLS,
    )
});

/// Does what the bucket in it does, and tells how long that took: a read up to its first bytes, a list and a removal of many
/// up to their end.
#[derive(Debug)]
pub(super) struct Timed(pub(super) Arc<dyn ObjectStore>);

impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Of what is not there, or is there already, the bucket has told as it should.
fn told<T>(operation: &'static str, began: Stopwatch, answer: Result<T>) -> Result<T> {
    use object_store::Error::{AlreadyExists, NotFound, NotModified, Precondition};
    let is_ok = match &answer {
        Ok(_) | Err(NotFound { .. } | AlreadyExists { .. } | NotModified { .. } | Precondition { .. }) => true,
        Err(_) => false,
    };
    tell(operation, began, is_ok);
    answer
}

fn tell(operation: &'static str, began: Stopwatch, is_ok: bool) {
    began.stop(&DURATIONS, &[KeyValue::new("operation", operation), metrics::outcome(is_ok)]);
}

/// Tells of a stream when it has ended, or is dropped.
struct Flow {
    operation: &'static str,
    began: Stopwatch,
    is_ok: bool,
}

impl Flow {
    fn saw(&mut self, is_ok: bool) {
        self.is_ok &= is_ok;
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        tell(self.operation, self.began, self.is_ok);
    }
}

fn flow<T: Send + 'static>(
    operation: &'static str,
    items: BoxStream<'static, Result<T>>,
) -> BoxStream<'static, Result<T>> {
    let mut flow = Flow { operation, began: Stopwatch::start(), is_ok: true };
    items.inspect(move |item| flow.saw(item.is_ok())).boxed()
}

#[tonic::async_trait]
impl ObjectStore for Timed {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let began = Stopwatch::start();
        told("put", began, self.0.put_opts(location, payload, opts).await)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let began = Stopwatch::start();
        let upload = told("put_begin", began, self.0.put_multipart_opts(location, opts).await)?;
        Ok(Box::new(TimedUpload(upload)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (began, operation) = (Stopwatch::start(), if options.head { "head" } else { "get" });
        told(operation, began, self.0.get_opts(location, options).await)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        flow("delete", self.0.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        flow("list", self.0.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        flow("list", self.0.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let began = Stopwatch::start();
        told("list", began, self.0.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let began = Stopwatch::start();
        told("copy", began, self.0.copy_opts(from, to, options).await)
    }
}

#[derive(Debug)]
struct TimedUpload(Box<dyn MultipartUpload>);

#[tonic::async_trait]
impl MultipartUpload for TimedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (began, part) = (Stopwatch::start(), self.0.put_part(data));
        Box::pin(async move { told("put_part", began, part.await) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let began = Stopwatch::start();
        told("put_complete", began, self.0.complete().await)
    }

    async fn abort(&mut self) -> Result<()> {
        self.0.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn it_is_the_bucket_that_is_in_it() {
        let bucket = Timed(Arc::new(InMemory::new()));
        let path = Path::from("v1/acme/ada/photo.png");
        bucket.put(&path, "bytes".into()).await.unwrap();
        assert_eq!(bucket.get(&path).await.unwrap().bytes().await.unwrap().as_ref(), b"bytes");
        assert_eq!(bucket.list(None).count().await, 1);
        let mut upload = bucket.put_multipart(&Path::from("large")).await.unwrap();
        upload.put_part("part".into()).await.unwrap();
        upload.complete().await.unwrap();
        bucket.delete(&path).await.unwrap();
        assert!(matches!(bucket.head(&path).await, Err(object_store::Error::NotFound { .. })));
        assert_eq!(bucket.head(&Path::from("large")).await.unwrap().size, 4);
    }
}
