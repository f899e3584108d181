//! Where objects lie in the bucket. Every key begins with the tenant and the subject, so that both can be told apart
//! and erased by prefix.
//!
//! | key | object |
//! |---|---|
//! | `v1/{tenant}/{subject}/photos/{sha256}.png` | a photo, by its content |
//! | `v1/{tenant}/{subject}/train/{task}/{fence}/checkpoint-{step}.safetensors` | a checkpoint |
//! | `v1/{tenant}/{subject}/train/{task}/{fence}/preview-{step}.safetensors` | an unfinished embedding, to draw a preview with |
//! | `v1/{tenant}/{subject}/train/{task}/{fence}/embedding.safetensors` | a finished embedding |
//! | `v1/{tenant}/{subject}/render/{task}/{fence}/{index}.png` | an avatar |
//! | `v1/{tenant}/{subject}/preview/{task}/{fence}/{index}.png` | a preview |
//! | `v1/{tenant}/{subject}/assemble/{task}/{fence}/contact-sheet.png` | a contact sheet |

use std::{fmt, str::FromStr};

use crate::{IdError, LeaseId, Sha256, SubjectName, TaskKind, TenantId};

const ROOT: &str = "v1";
const MAX_LENGTH: usize = 512;
const KEY_RULE: &str =
    "`v1/{tenant}/{subject}/…`, segments of a–z, A–Z, 0–9, `-`, `_`, `.` that do not begin with a dot";

/// File name of a finished embedding under its lease's prefix.
pub const EMBEDDING_NAME: &str = "embedding.safetensors";

/// File name of a contact sheet under its lease's prefix.
pub const CONTACT_SHEET_NAME: &str = "contact-sheet.png";

const CHECKPOINT_START: &str = "checkpoint-";
const SNAPSHOT_START: &str = "preview-";

/// File name of the checkpoint of `step` under its lease's prefix.
pub fn checkpoint_name(step: u32) -> String {
    format!("{CHECKPOINT_START}{step:06}.safetensors")
}

/// File name of the embedding of `step` that a preview is drawn with, under its lease's prefix.
pub fn snapshot_name(step: u32) -> String {
    format!("{SNAPSHOT_START}{step:06}.safetensors")
}

/// File name of picture number `index` under its lease's prefix.
pub fn avatar_name(index: u32) -> String {
    format!("{index:05}.png")
}

/// The key of an object in the bucket: safe as a path, and of exactly one tenant and subject.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// The key as text, from the root of the bucket.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the object is the tenant's.
    pub fn belongs_to(&self, tenant: &TenantId) -> bool {
        self.segment(1) == tenant.as_str()
    }

    /// Whether the object is of this subject of the tenant.
    pub fn is_of(&self, tenant: &TenantId, subject: &SubjectName) -> bool {
        self.belongs_to(tenant) && self.segment(2) == subject.as_str()
    }

    /// Whose it is.
    pub fn owners(&self) -> Option<(TenantId, SubjectName)> {
        owners(&self.0)
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    fn segment(&self, index: usize) -> &str {
        self.0.split('/').nth(index).unwrap_or_default()
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ObjectKey {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let owners = owners(text);
        if text.len() <= MAX_LENGTH
            && owners.is_some()
            && text.split('/').count() > 3
            && text.split('/').all(is_segment)
        {
            return Ok(Self(text.to_owned()));
        }
        Err(IdError::new("object key", text, KEY_RULE))
    }
}

/// The beginning that keys share; ends with a slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// The prefix as text, with its slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the key lies under this prefix.
    pub fn contains(&self, key: &ObjectKey) -> bool {
        key.as_str().starts_with(&self.0)
    }

    /// The key of the file `name` under this prefix.
    ///
    /// # Errors
    /// When `name` is no segment of a key, or makes it too long.
    pub fn key(&self, name: &str) -> Result<ObjectKey, IdError> {
        if !is_segment(name) {
            return Err(IdError::new("object name", name, "a–z, A–Z, 0–9, `-`, `_`, `.`, not beginning with a dot"));
        }
        format!("{}{name}", self.0).parse()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Prefix {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let valid = |path: &str| owners(path).is_some() && path.split('/').all(is_segment);
        if text.len() <= MAX_LENGTH && text.strip_suffix('/').is_some_and(valid) {
            return Ok(Self(text.to_owned()));
        }
        Err(IdError::new(
            "prefix",
            text,
            "a beginning of an object key from its tenant and subject on, with a slash at its end",
        ))
    }
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A photo that a user sent.
    Photo,
    /// A checkpoint of a training.
    Checkpoint,
    /// An embedding, finished or not.
    Embedding,
    /// A picture of the subject that was drawn: an avatar or a preview.
    Avatar,
    /// A contact sheet or anything else.
    Other,
}

/// What the object with this key is.
pub fn kind_of(key: &ObjectKey) -> ObjectKind {
    let name = key.file_name();
    match key.segment(3) {
        "photos" => ObjectKind::Photo,
        "train" if name == EMBEDDING_NAME || name.starts_with(SNAPSHOT_START) => ObjectKind::Embedding,
        "train" if name.starts_with(CHECKPOINT_START) => ObjectKind::Checkpoint,
        "render" | "preview" if name.ends_with(".png") => ObjectKind::Avatar,
        _other_folder => ObjectKind::Other,
    }
}

/// The lease under whose prefix the object lies; `None` for a photo.
pub fn lease_of(key: &ObjectKey) -> Option<LeaseId> {
    let fence = key.segment(5).parse().ok()?;
    LeaseId::decode(key.segment(4), fence).ok()
}

/// Under this lies all of a subject.
pub fn subject_prefix(tenant: &TenantId, subject: &SubjectName) -> Prefix {
    Prefix(format!("{ROOT}/{tenant}/{subject}/"))
}

/// A photo's key. Equal photos of one subject share it; those of two subjects never do.
pub fn photo_key(tenant: &TenantId, subject: &SubjectName, sha256: &Sha256) -> ObjectKey {
    ObjectKey(format!("{}photos/{sha256}.png", subject_prefix(tenant, subject)))
}

/// Under this lies all that is written under one lease.
pub fn output_prefix(tenant: &TenantId, subject: &SubjectName, kind: TaskKind, lease: LeaseId) -> Prefix {
    Prefix(format!("{}{kind}/{}/{}/", subject_prefix(tenant, subject), lease.task, lease.fence))
}

/// Tenant and subject at the beginning of a key or prefix.
fn owners(text: &str) -> Option<(TenantId, SubjectName)> {
    let mut segments = text.split('/');
    let root = segments.next()?;
    let (tenant, subject) = (segments.next()?.parse().ok()?, segments.next()?.parse().ok()?);
    (root == ROOT).then_some((tenant, subject))
}

/// Whether `text` is a plain file name wherever a bucket may lie: no dot files (staging), no way up, no empty one.
fn is_segment(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && !text.starts_with('.') && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Fence, TaskId};

    fn tenant() -> TenantId {
        "acme".parse().unwrap()
    }

    fn anna() -> SubjectName {
        "anna".parse().unwrap()
    }

    fn prefix(kind: TaskKind) -> Prefix {
        output_prefix(&tenant(), &anna(), kind, LeaseId { task: TaskId::new(), fence: Fence::new(3).unwrap() })
    }

    #[test]
    fn built_keys_are_valid_and_say_what_they_are() {
        let cases = [
            (photo_key(&tenant(), &anna(), &Sha256::of(b"photo")), ObjectKind::Photo),
            (prefix(TaskKind::Train).key(&checkpoint_name(50)).unwrap(), ObjectKind::Checkpoint),
            (prefix(TaskKind::Train).key(EMBEDDING_NAME).unwrap(), ObjectKind::Embedding),
            (prefix(TaskKind::Train).key(&snapshot_name(50)).unwrap(), ObjectKind::Embedding),
            (prefix(TaskKind::Preview).key(&avatar_name(0)).unwrap(), ObjectKind::Avatar),
            (prefix(TaskKind::Render).key(&avatar_name(7)).unwrap(), ObjectKind::Avatar),
            (prefix(TaskKind::Assemble).key(CONTACT_SHEET_NAME).unwrap(), ObjectKind::Other),
        ];
        for (key, kind) in cases {
            assert_eq!(key.as_str().parse::<ObjectKey>(), Ok(key.clone()));
            assert_eq!(kind_of(&key), kind, "{key}");
            assert!(subject_prefix(&tenant(), &anna()).contains(&key));
            assert!(key.is_of(&tenant(), &anna()));
            assert_eq!(key.owners(), Some((tenant(), anna())));
            assert_eq!(lease_of(&key).map(|lease| lease.fence.get()), (kind != ObjectKind::Photo).then_some(3));
        }
    }

    #[test]
    fn a_key_is_of_one_tenant() {
        let key = photo_key(&tenant(), &anna(), &Sha256::of(b"photo"));
        assert!(!key.belongs_to(&"acm".parse().unwrap()));
        assert!(!subject_prefix(&tenant(), &"ann".parse().unwrap()).contains(&key));
    }

    #[test]
    fn nothing_leads_out_of_the_bucket() {
        for bad in [
            "",
            "v1",
            "v1/acme/anna",
            "v1/acme/anna/",
            "v2/acme/anna/x",
            "/v1/acme/anna/x",
            "v1/acme/../x/y",
            "v1/acme/anna/../x",
            "v1/acme/anna/./x",
            "v1/acme/anna//x",
            "v1/acme/anna/a b",
            "v1/acme/anna/.x",
            "v1/Acme/anna/x",
        ] {
            assert!(bad.parse::<ObjectKey>().is_err(), "{bad}");
        }
        for bad in ["", "../x", "a/b", ".hidden", ".."] {
            assert!(prefix(TaskKind::Train).key(bad).is_err(), "{bad}");
        }
        assert!("v1/acme/anna".parse::<Prefix>().is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,80}") {
            let _ = text.parse::<Prefix>();
            if let Ok(key) = text.parse::<ObjectKey>() { let _ = kind_of(&key); }
        }
    }
}
