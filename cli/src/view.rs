//! What the commands print, as data: names instead of numbers, hex instead of bytes.

mod admin;
mod audit;
mod job;
mod subject;
mod text;

pub use admin::{KeyView, ReplayView, TenantView, created_key, key_list, tenant_list};
pub use audit::{EntryView, entry_list};
pub use job::{AvatarView, JobView, OutcomeView, SubjectProgressView};
pub use subject::{EmbeddingView, ReceiptView, SubjectView, WarningView};
pub use text::{job_list, job_page, receipt, subject_list};

use likeness_proto::v1;
use serde::Serialize;

/// An object of the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectView {
    /// Where it lies.
    pub key: String,
    /// Digest of its bytes, in hex.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
}

impl From<&v1::ObjectRef> for ObjectView {
    fn from(object: &v1::ObjectRef) -> Self {
        Self { key: object.key.clone(), sha256: hex::encode(&object.sha256), size: object.size }
    }
}

/// The name of an enum's value without the enum's: `JOB_STATE_RUNNING` is `running`.
fn plain(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

/// RFC 3339.
fn time(stamp: Option<&prost_types::Timestamp>) -> Option<String> {
    stamp.map(ToString::to_string)
}

#[cfg(test)]
mod tests;
