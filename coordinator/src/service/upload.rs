//! Receiving a subject's photos. Each is decoded and put into the bucket as it comes; nothing of it exists for anybody
//! until the whole upload is committed, and what a failed upload wrote is swept.

use std::sync::Arc;
use std::time::Duration;

use likeness_proto::v1::put_subject_request::Part;
use likeness_proto::v1::{self, PutSubjectRequest, PutSubjectResponse, Warning};
use likeness_proto::{ErrorCode, MAX_PHOTO_BYTES, Photo, PhotoHeader, Refusal, SubjectHeader, TenantId};
use tokio::time::{Instant, timeout};
use tonic::Streaming;
use tracing::Instrument;

use super::{Shared, shutting_down};
use crate::audit::Actor;
use crate::limits::Limits;
use crate::metrics;
use crate::photos::{Batch, Picture};
use crate::store::{Store, UPLOAD_LIMIT, Upload};

/// Bytes of a chunk at most.
const MAX_CHUNK: usize = 1 << 20;

/// Receives an upload and stores the subject.
pub(super) async fn receive<S: Store>(
    shared: Arc<Shared<S>>,
    tenant: TenantId,
    by: Actor,
    stream: Streaming<PutSubjectRequest>,
) -> Result<PutSubjectResponse, Refusal> {
    // In a task of its own: when the client goes away, its stream ends here with an error, and the upload is abandoned.
    let receiving = async move {
        let parts = Parts::new(stream, &shared.limits);
        upload(&shared, tenant, &by, parts).await
    };
    tokio::spawn(receiving.in_current_span()).await.map_err(|error| Refusal::internal(error.to_string()))?
}

async fn upload<S: Store>(
    shared: &Shared<S>,
    tenant: TenantId,
    by: &Actor,
    mut parts: Parts,
) -> Result<PutSubjectResponse, Refusal> {
    let header: SubjectHeader = match parts.next().await? {
        Some(Part::Header(header)) => header.try_into()?,
        Some(Part::Photo(_) | Part::Chunk(_)) | None => {
            return Err(Refusal::invalid("the upload does not begin with the subject's header"));
        }
    };
    // Not before, so that who says nothing holds up nobody.
    let _place = shared.uploads.take(&tenant).await;
    let upload = shared.store.begin_upload(&tenant, &header.subject).await?;
    let stored = tokio::select! {
        stored = timeout(UPLOAD_LIMIT, photos(shared, &upload, &mut parts)) => stored.unwrap_or_else(|_elapsed| Err(late())),
        () = shared.shutdown.cancelled() => Err(shutting_down()),
    };
    let committed = match stored {
        Ok((photos, warnings)) => {
            let subject = shared.store.commit_upload(&upload, &header.consent, &photos, by).await;
            subject.map_err(Refusal::from).map(|subject| PutSubjectResponse { subject: Some(subject), warnings })
        }
        Err(refusal) => Err(refusal),
    };
    if committed.is_err()
        && let Err(error) = shared.store.abandon_upload(&upload).await
    {
        tracing::warn!(%error, subject = %upload.subject, "failed upload not abandoned, its deadline will do it");
    }
    committed
}

/// Takes in every photo; what is good so far is put into the bucket.
async fn photos<S: Store>(
    shared: &Shared<S>,
    upload: &Upload,
    parts: &mut Parts,
) -> Result<(Vec<Photo>, Vec<Warning>), Refusal> {
    let mut batch = Batch::new(upload.tenant.clone(), upload.subject.clone());
    let mut next = parts.next().await?;
    while let Some(part) = next {
        let Part::Photo(header) = part else {
            return Err(Refusal::invalid("a chunk or a second header came where a photo was due"));
        };
        batch.room()?;
        let (header, file, after) = file(header, parts).await?;
        next = after;
        match header {
            Ok(header) => keep(shared, &mut batch, header, file).await?,
            Err(refusal) => batch.refuse(refusal),
        }
    }
    batch.finish()
}

/// Reads a photo's chunks. A header that refuses the file itself is no error of the upload: others are judged too.
async fn file(
    wire: v1::PhotoHeader,
    parts: &mut Parts,
) -> Result<(Result<PhotoHeader, Refusal>, Vec<u8>, Option<Part>), Refusal> {
    let (name, size) = (wire.file_name.clone(), wire.size);
    let header = match PhotoHeader::try_from(wire) {
        Err(refusal) if !matches!(refusal.code, ErrorCode::NotAnImage | ErrorCode::ImageTooLarge) => {
            return Err(refusal);
        }
        judged => judged,
    };
    let (mut bytes, mut received) = (Vec::new(), 0_u64);
    let after = loop {
        match parts.next().await? {
            Some(Part::Chunk(chunk)) if chunk.len() > MAX_CHUNK => {
                let length = chunk.len();
                return Err(Refusal::invalid(format!(
                    "a chunk of photo {name:?} has {length} bytes; at most {MAX_CHUNK}"
                )));
            }
            Some(Part::Chunk(chunk)) => {
                received += chunk.len() as u64;
                metrics::uploaded(chunk.len());
                if received > size {
                    return Err(Refusal::invalid(format!("photo {name:?} has more than the {size} bytes announced")));
                }
                // A file that is refused already is read past.
                if header.is_ok() && received <= MAX_PHOTO_BYTES {
                    bytes.extend(chunk);
                }
            }
            after => break after,
        }
    };
    if received < size && header.is_ok() {
        return Err(Refusal::invalid(format!("photo {name:?} ended after {received} of the {size} bytes announced")));
    }
    Ok((header, bytes, after))
}

async fn keep<S: Store>(
    shared: &Shared<S>,
    batch: &mut Batch,
    header: PhotoHeader,
    file: Vec<u8>,
) -> Result<(), Refusal> {
    let permit = shared.decoders.acquire().await.map_err(|_closed| shutting_down())?;
    let decoded = tokio::task::spawn_blocking(move || Picture::from_file(&file)).await;
    drop(permit);
    let picture =
        decoded.map_err(|error| Refusal::internal(format!("decoding photo {:?}: {error}", header.file_name)))?;
    match batch.add(header, picture) {
        Some((photo, png)) => shared.bucket.put(&photo.object.key, png).await,
        None => Ok(()),
    }
}

fn late() -> Refusal {
    Refusal::invalid(format!("the upload took longer than {} minutes; send fewer photos", UPLOAD_LIMIT.as_secs() / 60))
}

/// The parts of an upload in order. Its client may keep us waiting for a while, and every byte earns it some more.
struct Parts {
    stream: Streaming<PutSubjectRequest>,
    left: Duration,
    limits: Limits,
}

impl Parts {
    fn new(stream: Streaming<PutSubjectRequest>, limits: &Limits) -> Self {
        Self { stream, left: limits.upload_wait, limits: limits.clone() }
    }

    async fn next(&mut self) -> Result<Option<Part>, Refusal> {
        let begun = Instant::now();
        let message = timeout(self.left, self.stream.message()).await.map_err(|_elapsed| self.slow())?;
        self.left = self.left.saturating_sub(begun.elapsed());
        match message.map_err(|status| Refusal::read(&status))? {
            None => Ok(None),
            Some(PutSubjectRequest { part: Some(part) }) => {
                self.earn(&part);
                Ok(Some(part))
            }
            Some(PutSubjectRequest { part: None }) => Err(Refusal::invalid("the upload holds an empty message")),
        }
    }

    fn earn(&mut self, part: &Part) {
        let bytes = if let Part::Chunk(chunk) = part { chunk.len() } else { 0 };
        let earned = Duration::from_secs_f64(bytes as f64 / self.limits.upload_rate.max(1) as f64);
        self.left = (self.left + earned).min(self.limits.upload_wait);
    }

    fn slow(&self) -> Refusal {
        let Limits { upload_wait, upload_rate, .. } = self.limits;
        Refusal::invalid(format!(
            "the upload kept the coordinator waiting for {upload_wait:?}; send it again, with {upload_rate} bytes per second or more"
        ))
    }
}
