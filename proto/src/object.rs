//! References to objects of the bucket, and what is known of them.

use std::fmt;

use sha2::Digest;

use crate::{IdError, ObjectKey, Refusal, SUBJECT_SLOT, check, v1};

/// SHA-256 of an object's bytes; shown in hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The digest with these 32 bytes.
    pub const fn from_bytes(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::str::FromStr for Sha256 {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut digest = [0; 32];
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
        match hex::decode_to_slice(text, &mut digest) {
            Ok(()) if is_plain => Ok(Self(digest)),
            _ => Err(IdError::new("digest", text, "64 lower-case hex digits")),
        }
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where an object lies in the bucket, and what it must be when read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// Key from the root of the bucket.
    pub key: ObjectKey,
    /// Digest of the bytes.
    pub sha256: Sha256,
    /// Length in bytes.
    pub size: u64,
}

impl ObjectRef {
    /// The reference of `bytes` that lie at `key`.
    pub fn of(key: ObjectKey, bytes: &[u8]) -> Self {
        Self { key, sha256: Sha256::of(bytes), size: bytes.len() as u64 }
    }

    /// Decodes a reference that must be there.
    pub(crate) fn decode(field: &str, wire: Option<v1::ObjectRef>) -> Result<Self, Refusal> {
        check::present(field, wire)?.try_into()
    }
}

impl TryFrom<v1::ObjectRef> for ObjectRef {
    type Error = Refusal;

    fn try_from(wire: v1::ObjectRef) -> Result<Self, Refusal> {
        let length = wire.sha256.len();
        let digest = wire.sha256.try_into().map_err(|_| {
            Refusal::invalid(format!("the sha256 of object {:?} has {length} bytes; accepted are 32", wire.key))
        })?;
        Ok(Self { key: wire.key.parse()?, sha256: Sha256(digest), size: wire.size })
    }
}

impl From<ObjectRef> for v1::ObjectRef {
    fn from(object: ObjectRef) -> Self {
        Self { key: object.key.to_string(), sha256: object.sha256.0.to_vec(), size: object.size }
    }
}

/// A photo as it is stored: upright, RGB, without metadata, PNG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Photo {
    /// The file's name as the user sent it, without folders.
    pub file_name: String,
    /// Where it lies.
    pub object: ObjectRef,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// What it shows, with `{subject}`; `None`: templates are used.
    pub caption: Option<String>,
}

impl TryFrom<v1::Photo> for Photo {
    type Error = Refusal;

    fn try_from(wire: v1::Photo) -> Result<Self, Refusal> {
        Ok(Self {
            file_name: file_name(wire.file_name)?,
            object: ObjectRef::decode("photo.object", wire.object)?,
            width: check::within("photo.width", wire.width, 1..=MAX_SIDE)?,
            height: check::within("photo.height", wire.height, 1..=MAX_SIDE)?,
            caption: caption(wire.caption)?,
        })
    }
}

impl From<Photo> for v1::Photo {
    fn from(photo: Photo) -> Self {
        Self {
            file_name: photo.file_name,
            object: Some(photo.object.into()),
            width: photo.width,
            height: photo.height,
            caption: photo.caption.unwrap_or_default(),
        }
    }
}

/// Pixels a side at most, of photos.
const MAX_SIDE: u32 = 8192;

/// A file name without folders.
pub(crate) fn file_name(name: String) -> Result<String, Refusal> {
    let plain = !name.contains(['/', '\\']) && !name.chars().any(char::is_control);
    if (1..=255).contains(&name.len()) && plain {
        return Ok(name);
    }
    let shown = check::excerpt(&name);
    Err(Refusal::invalid(format!("file name {shown:?} is not accepted; it must have 1 to 255 bytes and no slash")))
}

/// A caption holds the subject's slot, or there is none.
pub(crate) fn caption(text: String) -> Result<Option<String>, Refusal> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    holds_slot("caption", check::text("caption", text, 1..=MAX_SENTENCE)?).map(Some)
}

/// Characters of a prompt or caption at most.
pub(crate) const MAX_SENTENCE: usize = 2000;

/// `text` if it holds the subject's slot.
pub(crate) fn holds_slot(field: &str, text: String) -> Result<String, Refusal> {
    if text.contains(SUBJECT_SLOT) {
        return Ok(text);
    }
    let shown = check::excerpt(&text);
    let message = format!("{field} {shown:?} does not hold {SUBJECT_SLOT}; write it where the subject stands");
    Err(Refusal::new(v1::ErrorCode::PromptWithoutSubject, message))
}

/// A committed checkpoint of a training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where it lies.
    pub object: ObjectRef,
    /// Steps done when it was made.
    pub step: u32,
}

impl TryFrom<v1::Checkpoint> for Checkpoint {
    type Error = Refusal;

    fn try_from(wire: v1::Checkpoint) -> Result<Self, Refusal> {
        Ok(Self { object: ObjectRef::decode("checkpoint.object", wire.object)?, step: wire.step })
    }
}

impl From<Checkpoint> for v1::Checkpoint {
    fn from(checkpoint: Checkpoint) -> Self {
        Self { object: Some(checkpoint.object.into()), step: checkpoint.step }
    }
}

/// The vectors of a training that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The embedding file.
    pub embedding: ObjectRef,
    /// Steps done when they were taken, from 1.
    pub step: u32,
}

impl TryFrom<v1::Snapshot> for Snapshot {
    type Error = Refusal;

    fn try_from(wire: v1::Snapshot) -> Result<Self, Refusal> {
        let step = check::within("preview.step", wire.step, 1..=u32::MAX)?;
        Ok(Self { embedding: ObjectRef::decode("preview.embedding", wire.embedding)?, step })
    }
}

impl From<Snapshot> for v1::Snapshot {
    fn from(snapshot: Snapshot) -> Self {
        Self { embedding: Some(snapshot.embedding.into()), step: snapshot.step }
    }
}

/// A finished avatar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Avatar {
    /// Where it lies.
    pub object: ObjectRef,
    /// The prompt, with `{subject}`.
    pub prompt: String,
    /// What its initial latents are a function of.
    pub seed: u64,
    /// Position among the subject's avatars.
    pub index: u32,
}

impl TryFrom<v1::Avatar> for Avatar {
    type Error = Refusal;

    fn try_from(wire: v1::Avatar) -> Result<Self, Refusal> {
        let prompt = holds_slot("avatar.prompt", check::text("avatar.prompt", wire.prompt, 1..=MAX_SENTENCE)?)?;
        Ok(Self {
            object: ObjectRef::decode("avatar.object", wire.object)?,
            prompt,
            seed: wire.seed,
            index: wire.index,
        })
    }
}

impl From<Avatar> for v1::Avatar {
    fn from(avatar: Avatar) -> Self {
        Self { object: Some(avatar.object.into()), prompt: avatar.prompt, seed: avatar.seed, index: avatar.index }
    }
}
