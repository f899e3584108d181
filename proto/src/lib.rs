//! The wire of Likeness and what it means: generated messages and services, ids, errors and object keys.
//! Knows no tensors and no runtimes.
//!
//! Whatever comes over the wire is checked once, by a `TryFrom` or a `resolve` of this crate; the types they give cannot
//! be half filled.

mod check;
mod codec;
mod fleet;
mod grant;
mod ids;
mod keys;
mod kinds;
mod object;
mod refusal;
mod secret;
mod spec;
mod subject;
mod submit;

/// Messages, clients and servers generated from `likeness/v1/*.proto`, which document them.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("likeness.v1");

    /// What the protos declare, as an encoded `FileDescriptorSet` without comments.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

pub use fleet::{
    BaseModel, Completion, Evaluation, Failure, LeaseAsk, Outcome, Progress, Registration, Release, Renewal, Renewals,
    TaskResult, TrainReport, wire_kinds,
};
pub use grant::{AssembleWork, Assignment, Grant, PreviewWork, RenderWork, Shot, TrainWork};
pub use ids::{Fence, IdError, Incarnation, JobId, LeaseId, ModelDigest, SubjectName, TaskId, TenantId};
pub use keys::{
    CONTACT_SHEET_NAME, EMBEDDING_NAME, ObjectKey, ObjectKind, Prefix, avatar_name, checkpoint_name, kind_of, lease_of,
    output_prefix, photo_key, snapshot_name, subject_prefix,
};
pub use kinds::{Capacity, Parameterization, Role, Scheduler, StopReason, TaskKind, Templates, UnknownName, Verdict};
pub use object::{Avatar, Checkpoint, ObjectRef, Photo, Sha256, Snapshot};
pub use refusal::{NoDetail, Refusal};
pub use secret::{Bearer, Secret, SecretError};
pub use spec::{
    Method, ModelFacts, Prompt, RENDER_DEFAULTS, RenderDefaults, RenderSpec, TRAIN_DEFAULTS, TextualInversion,
    TrainDefaults, TrainSpec,
};
pub use subject::{Consent, MAX_PHOTO_BYTES, PhotoHeader, SubjectHeader};
pub use submit::{IdempotencyKey, JobSubject, Specs, Submission};
pub use v1::ErrorCode;

/// Version of the protocol between workers and coordinator; both must speak the same.
pub const PROTOCOL_VERSION: u32 = 1;

/// Version of how specs are resolved; stored with every job.
pub const SPEC_VERSION: u32 = 2;

/// Stands in prompts and captions where the subject stands.
pub const SUBJECT_SLOT: &str = "{subject}";

/// The placeholder token that stands for a subject in embedding files and tokenized prompts: `<name>`.
pub fn token_of(subject: &SubjectName) -> String {
    format!("<{subject}>")
}
