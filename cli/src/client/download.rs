//! Downloads objects into files, whole and verified.

use super::{Client, Fault};
use crate::exit::{Exit, Failure};
use crate::files;
use likeness_proto::{ErrorCode, ObjectRef, Sha256, v1};
use std::path::Path;

/// Downloads `object` to `path`, unless it is there already. What is written is what the digest says, or nothing.
///
/// # Errors
/// What the server refuses, `OBJECT_CORRUPT` when other bytes arrive, and failures to write.
pub async fn download(client: &Client, object: &v1::ObjectRef, path: &Path) -> Result<(), Failure> {
    let object = ObjectRef::try_from(object.clone())?;
    if is_there(&object, path) {
        return Ok(());
    }
    let bytes = client.object(&object).await?;
    files::write(path, &bytes)
}

impl Client {
    /// The bytes of an object, verified.
    ///
    /// # Errors
    /// What the server refuses, and `OBJECT_CORRUPT` when other bytes arrive.
    pub async fn object(&self, object: &ObjectRef) -> Result<Vec<u8>, Failure> {
        let ask = v1::DownloadRequest { key: object.key.to_string() };
        let link = self.call(async |stub| Ok(stub.get_download_link(ask.clone()).await?.into_inner())).await?;
        if let Some(bytes) = self.links.get(&link, object).await.filter(|bytes| verify(object, bytes).is_ok()) {
            return Ok(bytes);
        }
        let bytes = self
            .call(async |stub| {
                let mut stream = stub.download(ask.clone()).await?.into_inner();
                let mut bytes = Vec::new();
                while let Some(chunk) = stream.message().await? {
                    bytes.extend(chunk.data);
                    if bytes.len() as u64 > object.size {
                        return Err(Fault::Local(corrupt(object, "more bytes arrived than it has")));
                    }
                }
                Ok(bytes)
            })
            .await?;
        verify(object, &bytes)?;
        Ok(bytes)
    }
}

fn verify(object: &ObjectRef, bytes: &[u8]) -> Result<(), Failure> {
    let digest = Sha256::of(bytes);
    if digest == object.sha256 && bytes.len() as u64 == object.size {
        return Ok(());
    }
    Err(corrupt(object, &format!("its digest should be {}, what arrived has {digest}", object.sha256)))
}

fn corrupt(object: &ObjectRef, why: &str) -> Failure {
    Failure::new(Exit::Refused(ErrorCode::ObjectCorrupt), format!("the object {} is damaged: {why}", object.key))
}

/// Whether an earlier download got this far.
fn is_there(object: &ObjectRef, path: &Path) -> bool {
    let same_size = std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == object.size);
    same_size && std::fs::read(path).is_ok_and(|bytes| Sha256::of(&bytes) == object.sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(bytes: &[u8]) -> ObjectRef {
        ObjectRef::of("v1/local/ada/photos/a.png".parse().unwrap(), bytes)
    }

    #[test]
    fn other_bytes_than_promised_are_refused_with_both_digests() {
        verify(&object(b"avatar"), b"avatar").unwrap();
        let failure = verify(&object(b"avatar"), b"avatax").unwrap_err();
        assert_eq!(failure.exit, Exit::Refused(ErrorCode::ObjectCorrupt));
        assert!(failure.message.contains(&Sha256::of(b"avatax").to_string()), "{failure}");
    }

    #[test]
    fn a_file_with_the_right_bytes_need_not_be_fetched_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_there(&object(b"avatar"), file.path()));
        std::fs::write(file.path(), b"avatax").unwrap();
        assert!(!is_there(&object(b"avatar"), file.path()));
        std::fs::write(file.path(), b"avatar").unwrap();
        assert!(is_there(&object(b"avatar"), file.path()));
    }
}
