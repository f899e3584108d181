//! The files of one upload, judged together: all or nothing.

use likeness_proto::v1::{Warning, WarningCode};
use likeness_proto::{ErrorCode, ObjectRef, Photo, PhotoHeader, Refusal, Sha256, SubjectName, TenantId, photo_key};

use super::{MAX_PHOTOS, PhotoError, Picture};

/// Collects what became of each file of one subject.
#[derive(Debug)]
pub(crate) struct Batch {
    tenant: TenantId,
    subject: SubjectName,
    taken: Vec<Photo>,
    bad: Vec<Refusal>,
    warnings: Vec<Warning>,
}

impl Batch {
    pub(crate) fn new(tenant: TenantId, subject: SubjectName) -> Self {
        Self { tenant, subject, taken: Vec::new(), bad: Vec::new(), warnings: Vec::new() }
    }

    /// Adds a file. Answers the photo and its bytes when they are worth storing: not when the same picture came
    /// before, and not when any file was bad, since then nothing will be kept.
    pub(crate) fn add(&mut self, header: PhotoHeader, file: Result<Picture, PhotoError>) -> Option<(Photo, Vec<u8>)> {
        let PhotoHeader { file_name, caption, .. } = header;
        let picture = match file {
            Ok(picture) => picture,
            Err(error) => {
                self.refuse(Refusal::new(error.code(), format!("photo {file_name:?} {error}")));
                return None;
            }
        };
        let sha256 = Sha256::of(&picture.png);
        if let Some(first) = self.taken.iter().find(|photo| photo.object.sha256 == sha256) {
            let message = format!("photo {file_name:?} shows the same as {:?}; kept once", first.file_name);
            self.warn(WarningCode::DuplicatePhoto, message);
            return None;
        }
        if picture.was_transparent {
            self.warn(WarningCode::Alpha, format!("photo {file_name:?} is transparent in places; laid on white"));
        }
        let key = photo_key(&self.tenant, &self.subject, &sha256);
        let object = ObjectRef { key, sha256, size: picture.png.len() as u64 };
        let photo = Photo { file_name, object, width: picture.width, height: picture.height, caption };
        self.taken.push(photo.clone());
        self.bad.is_empty().then_some((photo, picture.png))
    }

    /// Adds a file that was refused before its bytes were read; the refusal names it.
    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        self.bad.push(refusal);
    }

    /// Refuses a file beyond the most that one upload may have.
    pub(crate) fn room(&self) -> Result<(), Refusal> {
        if self.taken.len() + self.bad.len() < MAX_PHOTOS {
            return Ok(());
        }
        Err(Refusal::invalid(format!("subject {} has more than {MAX_PHOTOS} photos; send fewer", self.subject)))
    }

    /// The photos to keep, or one error that lists every bad file.
    pub(crate) fn finish(mut self) -> Result<(Vec<Photo>, Vec<Warning>), Refusal> {
        if let Some(first) = self.bad.first() {
            let each: Vec<_> = self.bad.iter().map(|refusal| refusal.message.as_str()).collect();
            return Err(Refusal::new(first.code, each.join("; ")));
        }
        match self.taken.as_slice() {
            [] => {
                let message = format!("subject {} has no photos; send at least one PNG, JPEG or WebP", self.subject);
                return Err(Refusal::new(ErrorCode::NoPhotos, message));
            }
            [only] => {
                let name = &only.file_name;
                let message =
                    format!("photo {name:?} is the only one; what stands around the subject may be learned too");
                self.warn(WarningCode::SinglePhoto, message);
            }
            [_, _, ..] => {}
        }
        Ok((self.taken, self.warnings))
    }

    fn warn(&mut self, code: WarningCode, message: String) {
        self.warnings.push(Warning { code: code.into(), message, subject: self.subject.to_string() });
    }
}
