//! The audit log: who did what and when, without personal data, as a chain of hashes.
//!
//! The hash of an entry is SHA-256 over, one after the other: `likeness audit entry 1` and a line feed; the previous entry's hash (32
//! bytes, zeros before the first); sequence (8 bytes), time (8 bytes, milliseconds since the Unix epoch, signed), action (4 bytes); the
//! target (32 bytes); actor and tenant, each as its length in bytes (8 bytes) and its UTF-8. Numbers are big-endian. So a row that is
//! changed, missing or moved shows, and so does a tail that is cut off, to whoever noted a later head.

mod action;
mod blind;
mod chain;
mod log;

pub use action::Action;
pub use blind::Blind;
pub use chain::{Broken, Chain, Verified};
pub use log::{AuditLog, VerifyError};

use std::fmt;

use likeness_proto::{Sha256, TenantId};
use sha2::Digest;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1 without gaps.
    pub sequence: u64,
    /// When, on the store's clock; milliseconds since the Unix epoch.
    pub at: i64,
    /// Who: see [`Actor`].
    pub actor: String,
    /// Whose; empty where it is no tenant's.
    pub tenant: String,
    /// What, as it is stored. A newer release may know more than [`Action`].
    pub action: i32,
    /// To what: a keyed hash, see [`Blind`].
    pub target: Sha256,
    /// The hash of the entry before it.
    pub previous: Sha256,
    /// Its own.
    pub hash: Sha256,
}

impl Entry {
    /// The hash that its contents give.
    #[must_use]
    pub fn digest(&self) -> Sha256 {
        let mut hasher = sha2::Sha256::new();
        hasher.update(b"likeness audit entry 1\n");
        hasher.update(self.previous.as_bytes());
        hasher.update(self.sequence.to_be_bytes());
        hasher.update(self.at.to_be_bytes());
        hasher.update(self.action.to_be_bytes());
        hasher.update(self.target.as_bytes());
        for text in [&self.actor, &self.tenant] {
            hasher.update((text.len() as u64).to_be_bytes());
            hasher.update(text.as_bytes());
        }
        Sha256::from_bytes(hasher.finalize().into())
    }
}

/// Where in the log an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) sequence: u64,
    pub(crate) hash: Sha256,
}

/// What an entry is made of, before it has its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note<'a> {
    pub(crate) by: &'a Actor,
    pub(crate) tenant: Option<&'a TenantId>,
    pub(crate) action: Action,
    pub(crate) target: Sha256,
}

/// Who acts, as the log names them: a credential, never a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(String);

impl Actor {
    /// Whoever holds the token of the state folder.
    #[must_use]
    pub fn embedded() -> Self {
        Self("embedded".to_owned())
    }

    /// Whoever holds the API key of this prefix.
    #[must_use]
    pub fn key(prefix: &str) -> Self {
        Self(format!("key:{prefix}"))
    }

    /// A worker, by the name in its certificate.
    pub(crate) fn worker(name: &str) -> Self {
        Self(format!("worker:{name}"))
    }

    /// Somebody whom an identity provider vouches for, by a keyed hash of who that is: see [`Blind::person`].
    pub(crate) fn person(hash: &Sha256) -> Self {
        Self(format!("person:{hash}"))
    }

    /// A coordinator of its own accord: as it starts, for a tenant's retention, after a restore.
    #[must_use]
    pub fn coordinator() -> Self {
        Self("coordinator".to_owned())
    }

    /// The actor as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
