//! Sends a subject's photos, read from disk as they go.

use super::connect::Stub;
use super::retry::Fault;
use crate::exit::{Exit, Failure};
use crate::photos::PhotoFile;
use likeness_proto::v1::put_subject_request::Part;
use likeness_proto::{SubjectHeader, v1};
use std::fmt::Display;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

const CHUNK: usize = 256 << 10;
/// Chunks read ahead of the network.
const AHEAD: usize = 4;

/// A subject's photos and the consent to use them.
#[derive(Clone, Debug)]
pub struct Upload {
    header: v1::SubjectHeader,
    photos: Vec<PhotoFile>,
}

impl Upload {
    /// Checks the name and the consent as the server will.
    ///
    /// # Errors
    /// What the server would refuse of them.
    pub fn new(subject: &str, consent: v1::Consent, photos: Vec<PhotoFile>) -> Result<Self, Failure> {
        let header = v1::SubjectHeader { subject: subject.to_owned(), consent: Some(consent) };
        SubjectHeader::try_from(header.clone())?;
        Ok(Self { header, photos })
    }

    /// The subject's name.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.header.subject
    }

    pub(super) async fn send(&self, stub: &mut Stub) -> Result<v1::PutSubjectResponse, Fault> {
        let (sender, receiver) = channel(AHEAD);
        let stream = ReceiverStream::new(receiver).map(|part| v1::PutSubjectRequest { part: Some(part) });
        let (answer, read) = tokio::join!(stub.put_subject(stream), self.read(sender));
        // A photo that could not be read ends the stream early: it, not the server's view of that, is the cause.
        read?;
        Ok(answer?.into_inner())
    }

    async fn read(&self, sender: Sender<Part>) -> Result<(), Failure> {
        let mut going = sender.send(Part::Header(self.header.clone())).await.is_ok();
        for photo in &self.photos {
            if !going {
                break; // The server has already answered.
            }
            going = send_photo(photo, &sender).await?;
        }
        Ok(())
    }
}

/// Sends one photo. False: nobody listens any more.
async fn send_photo(photo: &PhotoFile, sender: &Sender<Part>) -> Result<bool, Failure> {
    let unreadable = |error: &dyn Display| {
        Failure::new(Exit::Photos, format!("cannot read the photo {}: {error}", photo.path.display()))
    };
    let mut file = File::open(&photo.path).await.map_err(|error| unreadable(&error))?;
    let size = file.metadata().await.map_err(|error| unreadable(&error))?.len();
    let header = v1::PhotoHeader { file_name: photo.name.clone(), size, caption: photo.caption.clone() };
    let mut going = sender.send(Part::Photo(header)).await.is_ok();
    let mut left = size;
    while going && left > 0 {
        let mut chunk = vec![0; usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK))];
        file.read_exact(&mut chunk).await.map_err(|error| unreadable(&error))?;
        left -= chunk.len() as u64;
        going = sender.send(Part::Chunk(chunk)).await.is_ok();
    }
    Ok(going)
}

#[cfg(test)]
mod tests {
    use super::*;
    use likeness_proto::{Capacity, ErrorCode};

    fn consent(statement: &str) -> v1::Consent {
        v1::Consent {
            attested_by: "Ada".to_owned(),
            capacity: Capacity::Self_.encode(),
            statement: statement.to_owned(),
        }
    }

    fn upload(dir: &tempfile::TempDir, names: &[&str]) -> Upload {
        let photo =
            |name: &&str| PhotoFile { path: dir.path().join(name), name: (*name).to_owned(), caption: String::new() };
        Upload::new("ada", consent("I agree"), names.iter().map(photo).collect()).unwrap()
    }

    #[test]
    fn a_consent_without_a_statement_is_refused_before_anything_is_sent() {
        let failure = Upload::new("ada", consent(" "), Vec::new()).unwrap_err();
        assert_eq!(failure.exit, Exit::Refused(ErrorCode::ConsentMissing));
    }

    #[tokio::test]
    async fn a_photo_goes_out_as_its_header_and_chunks_of_its_size() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.png"), vec![7; CHUNK + 5]).unwrap();
        let (sender, mut receiver) = channel(100);
        upload(&dir, &["a.png"]).read(sender).await.unwrap();
        let mut sizes = Vec::new();
        while let Some(part) = receiver.recv().await {
            sizes.push(match part {
                Part::Header(header) => header.subject.len() as u64,
                Part::Photo(photo) => photo.size,
                Part::Chunk(chunk) => chunk.len() as u64,
            });
        }
        assert_eq!(sizes, [3, CHUNK as u64 + 5, CHUNK as u64, 5]);
    }

    #[tokio::test]
    async fn a_photo_that_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, _receiver) = channel(100);
        let failure = upload(&dir, &["gone.png"]).read(sender).await.unwrap_err();
        assert!(failure.exit == Exit::Photos && failure.message.contains("gone.png"), "{failure}");
    }

    #[tokio::test]
    async fn reading_stops_when_nobody_listens_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, receiver) = channel(1);
        drop(receiver);
        upload(&dir, &["never-opened.png"]).read(sender).await.unwrap();
    }
}
