//! Downloading a committed object.

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use likeness_proto::v1::{DownloadChunk, DownloadLink};
use likeness_proto::{ErrorCode, ObjectKey, ObjectRef, Refusal, TenantId};
use sha2::{Digest, Sha256};
use tonic::Status;

use super::Shared;
use crate::audit::Actor;
use crate::bucket::LINK_LIFE;
use crate::store::{Reading, Store};

/// Bytes of a message at most.
const CHUNK: usize = 1 << 20;

/// Streams an object of the tenant. Ends with an error, whatever was sent, when the bytes are not those committed.
pub(crate) async fn download<S: Store>(
    shared: &Shared<S>,
    tenant: &TenantId,
    key: &str,
    by: &Actor,
) -> Result<impl Stream<Item = Result<DownloadChunk, Status>> + Send + 'static, Refusal> {
    let key: ObjectKey = key.parse()?;
    let object = shared.store.open_object(tenant, &key, Reading::Here, by).await?;
    let bytes = shared.bucket.read(&key).await?;
    Ok(chunks(object, bytes))
}

/// A link to an object of the tenant, where the bucket knows links.
pub(super) async fn link<S: Store>(
    shared: &Shared<S>,
    tenant: &TenantId,
    key: &str,
    by: &Actor,
) -> Result<DownloadLink, Refusal> {
    let key = key.parse()?;
    let object = shared.store.object(tenant, &key).await?;
    let Some(url) = shared.bucket.link(&object.key).await? else { return Ok(DownloadLink::default()) };
    shared.store.open_object(tenant, &key, Reading::ByLink, by).await?;
    Ok(DownloadLink { url, seconds: LINK_LIFE.as_secs() as u32 })
}

struct Download {
    object: ObjectRef,
    bytes: BoxStream<'static, Result<Vec<u8>, Refusal>>,
    hasher: Sha256,
    pending: Vec<u8>,
    done: bool,
}

fn chunks(
    object: ObjectRef,
    bytes: BoxStream<'static, Result<Vec<u8>, Refusal>>,
) -> impl Stream<Item = Result<DownloadChunk, Status>> + Send + 'static {
    let reading = Download { object, bytes, hasher: Sha256::new(), pending: Vec::new(), done: false };
    futures::stream::unfold(reading, async |mut reading| {
        let next = reading.next().await.transpose()?;
        reading.done |= next.is_err();
        Some((next.map(|data| DownloadChunk { data }).map_err(Status::from), reading))
    })
}

impl Download {
    /// The next chunk; the last one only after the digest of the whole was found right.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Refusal> {
        while !self.done && self.pending.len() <= CHUNK {
            match self.bytes.next().await {
                Some(bytes) => {
                    let bytes = bytes?;
                    self.hasher.update(&bytes);
                    self.pending.extend(bytes);
                }
                None => {
                    self.done = true;
                    self.check()?;
                }
            }
        }
        let rest = self.pending.split_off(self.pending.len().min(CHUNK));
        let chunk = std::mem::replace(&mut self.pending, rest);
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    fn check(&mut self) -> Result<(), Refusal> {
        let digest: [u8; 32] = self.hasher.finalize_reset().into();
        if digest == *self.object.sha256.as_bytes() {
            return Ok(());
        }
        let (key, want, got) = (&self.object.key, self.object.sha256, hex::encode(digest));
        self.pending.clear();
        let message = format!("object {key} is corrupt: its sha256 is {got}, committed was {want}");
        Err(Refusal::new(ErrorCode::ObjectCorrupt, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn downloaded(committed: &[u8], parts: &[&[u8]]) -> Result<Vec<Vec<u8>>, Status> {
        let object = ObjectRef::of("v1/acme/ada/photos/a.png".parse().unwrap(), committed);
        let parts: Vec<_> = parts.iter().map(|part| Ok(part.to_vec())).collect();
        let chunks: Vec<_> = chunks(object, futures::stream::iter(parts).boxed()).collect().await;
        chunks.into_iter().map(|chunk| chunk.map(|chunk| chunk.data)).collect()
    }

    #[tokio::test]
    async fn a_large_object_comes_in_chunks_of_a_mebibyte() {
        let bytes: Vec<u8> = (0..2 * CHUNK + 5).map(|index| (index % 251) as u8).collect();
        let chunks = downloaded(&bytes, &[&bytes[..10], &bytes[10..]]).await.unwrap();
        assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), [CHUNK, CHUNK, 5]);
        assert_eq!(chunks.concat(), bytes);
    }

    #[tokio::test]
    async fn an_empty_object_has_no_chunks() {
        assert_eq!(downloaded(b"", &[]).await.unwrap(), Vec::<Vec<u8>>::new());
    }

    #[tokio::test]
    async fn a_corrupt_object_ends_with_an_error() {
        let status = downloaded(b"what was committed", &[b"what lies ", b"there"]).await.unwrap_err();
        assert_eq!(Refusal::read(&status).code, ErrorCode::ObjectCorrupt);
    }
}
