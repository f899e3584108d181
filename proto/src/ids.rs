//! Ids as types, so that none is taken for another.

use std::{fmt, str::FromStr};

use uuid::Uuid;

use crate::{Refusal, check::excerpt};

/// A text that is no id of the kind asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no {kind}; accepted is {accepted}")]
pub struct IdError {
    kind: &'static str,
    value: String,
    accepted: &'static str,
}

impl IdError {
    pub(crate) fn new(kind: &'static str, value: &str, accepted: &'static str) -> Self {
        Self { kind, value: excerpt(value), accepted }
    }
}

impl From<IdError> for Refusal {
    fn from(error: IdError) -> Self {
        Refusal::invalid(error.to_string())
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $new:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh id.
            #[allow(clippy::new_without_default)] // a default is a value, and this is another one every time
            pub fn new() -> Self {
                Self(Uuid::$new())
            }

            /// The id as a UUID.
            pub fn as_uuid(&self) -> &Uuid {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let id = Uuid::try_parse(text).ok().filter(|id| id.hyphenated().to_string() == text);
                id.map(Self).ok_or_else(|| IdError::new($kind, text, "a hyphenated lower-case UUID"))
            }
        }
    };
}

uuid_id! {
    /// A job: some subjects, how to learn them and what to draw of them. Later jobs sort later (UUID version 7).
    JobId, "job id", now_v7
}
uuid_id! {
    /// A task: one piece of a job that a worker leases as a whole (UUID version 7).
    TaskId, "task id", now_v7
}
uuid_id! {
    /// One process of a worker, from its start to its end (UUID version 4).
    Incarnation, "incarnation", new_v4
}

/// Fences a task: it grows with every grant, and a report that carries an older one is refused. From 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(u64);

impl Fence {
    /// Fence number `number`; `None` for 0, which no grant has.
    pub fn new(number: u64) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// The number on the wire.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u64> for Fence {
    type Error = Refusal;

    fn try_from(number: u64) -> Result<Self, Refusal> {
        Self::new(number).ok_or_else(|| Refusal::invalid("fence is 0; accepted are numbers from 1"))
    }
}

/// One grant of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId {
    /// The task leased.
    pub task: TaskId,
    /// The grant's fence.
    pub fence: Fence,
}

impl LeaseId {
    /// Decodes the two fields that every report carries.
    ///
    /// # Errors
    /// When `task` is no task id or `fence` is 0.
    pub fn decode(task: &str, fence: u64) -> Result<Self, Refusal> {
        Ok(Self { task: task.parse()?, fence: fence.try_into()? })
    }
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                if is_name(text) {
                    return Ok(Self(text.to_owned()));
                }
                Err(IdError::new($kind, text, NAME_RULE))
            }
        }
    };
}

name_id! {
    /// A customer: sees nothing of any other. Begins every row, look-up and object key.
    TenantId, "tenant"
}
name_id! {
    /// A subject's name within its tenant.
    SubjectName, "subject name"
}

const NAME_RULE: &str =
    "1 to 64 of a–z, 0–9, `-`, `_`, `.`, beginning with a letter or digit and without two dots in a row";

/// Whether `text` can be a segment of an object key, a folder and a placeholder token.
fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let first = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 64 && text.bytes().all(inner) && text.as_bytes().first().is_some_and(first) && !text.contains("..")
}

/// The digest of a base model: `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelDigest(String);

impl ModelDigest {
    /// The digest as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ModelDigest {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let is_hex =
            |hex: &str| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if text.strip_prefix("sha256:").is_some_and(is_hex) {
            return Ok(Self(text.to_owned()));
        }
        Err(IdError::new("base model digest", text, "`sha256:` and 64 lower-case hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_safe_as_folders_and_tokens() {
        for good in ["a", "0", "subject-03", "anna.b_c", &"x".repeat(64)] {
            assert!(good.parse::<SubjectName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a..b", "-a", "_a", "Anna", "a/b", "ä", "a b", "a\0", &"x".repeat(65)] {
            assert!(bad.parse::<SubjectName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_message_names_value_and_rule() {
        let error = "Anna".parse::<SubjectName>().unwrap_err().to_string();
        assert!(error.starts_with("\"Anna\" is no subject name; accepted is 1 to 64 of a–z"), "{error}");
    }

    #[test]
    fn uuids_have_one_spelling() {
        let id = JobId::new();
        assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
        assert!(id.to_string().to_uppercase().parse::<JobId>().is_err());
        assert!(id.as_uuid().simple().to_string().parse::<JobId>().is_err());
    }

    #[test]
    fn later_jobs_sort_later() {
        let ids: Vec<_> = (0..100).map(|_| JobId::new()).collect();
        assert!(ids.is_sorted());
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_round_trips(text in ".{0,80}") {
            if let Ok(name) = text.parse::<SubjectName>() { prop_assert_eq!(name.to_string(), text.clone()); }
            if let Ok(digest) = text.parse::<ModelDigest>() { prop_assert_eq!(digest.to_string(), text.clone()); }
            let _ = text.parse::<TaskId>();
        }
    }
}
