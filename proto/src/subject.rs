//! A subject as it is put: who is shown, who says that this is allowed, and the photos announced.

use crate::{
    Capacity, ErrorCode, Refusal, SubjectName, check,
    object::{caption, file_name},
    v1,
};

/// Bytes of a photo's file at most.
pub const MAX_PHOTO_BYTES: u64 = 64 << 20;

/// Who is shown, and who says that this is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectHeader {
    /// The subject's name.
    pub subject: SubjectName,
    /// The record that the photos may be used.
    pub consent: Consent,
}

impl TryFrom<v1::SubjectHeader> for SubjectHeader {
    type Error = Refusal;

    fn try_from(wire: v1::SubjectHeader) -> Result<Self, Refusal> {
        let subject = wire.subject.parse()?;
        let consent = wire.consent.ok_or_else(|| missing("there is no consent record"))?;
        Ok(Self { subject, consent: consent.try_into()? })
    }
}

/// The record that the photos may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consent {
    /// Who attests: 1 to 200 characters, not blank.
    pub attested_by: String,
    /// In which capacity.
    pub capacity: Capacity,
    /// What is attested: 1 to 2,000 characters, not blank.
    pub statement: String,
}

impl TryFrom<v1::Consent> for Consent {
    type Error = Refusal;

    fn try_from(wire: v1::Consent) -> Result<Self, Refusal> {
        if wire.attested_by.trim().is_empty() {
            return Err(missing("nobody attests it"));
        }
        if wire.statement.trim().is_empty() {
            return Err(missing("it has no statement"));
        }
        Ok(Self {
            attested_by: check::text("consent.attested_by", wire.attested_by, 1..=200)?,
            capacity: Capacity::decode(wire.capacity).map_err(|refusal| missing(&refusal.message))?,
            statement: check::text("consent.statement", wire.statement, 1..=2000)?,
        })
    }
}

impl From<Consent> for v1::Consent {
    fn from(consent: Consent) -> Self {
        Self { attested_by: consent.attested_by, capacity: consent.capacity.encode(), statement: consent.statement }
    }
}

fn missing(why: &str) -> Refusal {
    let message = format!(
        "the subject's consent is incomplete: {why}; say who attests (a name), as what (self, guardian or licensee) and \
         a statement"
    );
    Refusal::new(ErrorCode::ConsentMissing, message)
}

/// A photo announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhotoHeader {
    /// The file's name, without folders.
    pub file_name: String,
    /// Length in bytes, 1 to [`MAX_PHOTO_BYTES`].
    pub size: u64,
    /// What it shows, with `{subject}`.
    pub caption: Option<String>,
}

impl TryFrom<v1::PhotoHeader> for PhotoHeader {
    type Error = Refusal;

    fn try_from(wire: v1::PhotoHeader) -> Result<Self, Refusal> {
        let file_name = file_name(wire.file_name)?;
        let (code, what) = match wire.size {
            0 => (ErrorCode::NotAnImage, "is empty; accepted are PNG, JPEG and WebP".to_owned()),
            1..=MAX_PHOTO_BYTES => return Ok(Self { file_name, size: wire.size, caption: caption(wire.caption)? }),
            size => (ErrorCode::ImageTooLarge, format!("has {size} bytes; accepted are at most {MAX_PHOTO_BYTES}")),
        };
        Err(Refusal::new(code, format!("photo {file_name:?} {what}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consent() -> v1::Consent {
        v1::Consent { attested_by: "Anna".into(), capacity: Capacity::Self_.encode(), statement: "I agree".into() }
    }

    fn header(consent: Option<v1::Consent>) -> Result<SubjectHeader, Refusal> {
        v1::SubjectHeader { subject: "anna".into(), consent }.try_into()
    }

    #[test]
    fn a_whole_consent_is_kept() {
        let header = header(Some(consent())).unwrap();
        assert_eq!(v1::Consent::from(header.consent), consent());
    }

    #[test]
    fn an_incomplete_consent_is_none() {
        let incomplete = [
            None,
            Some(v1::Consent { attested_by: "  ".into(), ..consent() }),
            Some(v1::Consent { statement: String::new(), ..consent() }),
            Some(v1::Consent { capacity: 0, ..consent() }),
            Some(v1::Consent { capacity: 9, ..consent() }),
        ];
        for wire in incomplete {
            assert_eq!(header(wire).unwrap_err().code, ErrorCode::ConsentMissing);
        }
    }

    #[test]
    fn photos_are_measured_before_a_byte_is_read() {
        let photo = |name: &str, size| {
            PhotoHeader::try_from(v1::PhotoHeader { file_name: name.into(), size, caption: String::new() })
        };
        assert_eq!(photo("a.png", 1).unwrap().caption, None);
        assert_eq!(photo("a.png", 0).unwrap_err().code, ErrorCode::NotAnImage);
        assert_eq!(photo("a.png", MAX_PHOTO_BYTES + 1).unwrap_err().code, ErrorCode::ImageTooLarge);
        assert_eq!(photo("../a.png", 1).unwrap_err().code, ErrorCode::InvalidArgument);
        assert_eq!(photo("", 1).unwrap_err().code, ErrorCode::InvalidArgument);
    }

    #[test]
    fn a_caption_holds_the_subject() {
        let wire = v1::PhotoHeader { file_name: "a.png".into(), size: 1, caption: "a woman".into() };
        assert_eq!(PhotoHeader::try_from(wire).unwrap_err().code, ErrorCode::PromptWithoutSubject);
    }
}
