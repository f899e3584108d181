//! What the coordinator remembers. [`Store`] is the contract; engines differ in where they keep it. The contract's tests
//! are in `contract`, written for any engine.

mod address;
mod census;
mod contenders;
mod faults;
mod look;
// Both engines compile the queries in `sql`, each over its own types: see ARCHITECTURE.md.
#[allow(clippy::duplicate_mod)]
pub(crate) mod postgres;
mod roster;
mod signals;
#[allow(clippy::duplicate_mod)]
pub(crate) mod sqlite;
mod timed;

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) mod memory;

use std::future::Future;
use std::time::Duration;

use likeness_proto::v1;
use likeness_proto::{
    Completion, Consent, ErrorCode, Failure, JobId, LeaseAsk, LeaseId, ModelDigest, ObjectKey, ObjectRef, Photo,
    Prefix, Refusal, Registration, Release, Renewals, Role, SubjectName, Submission, TenantId, Verdict,
};

use uuid::Uuid;

use crate::audit::{Actor, Blind, Point};
use crate::clock::Timestamp;

pub use address::{NoStore, OpenError, StoreAddress};
pub(crate) use census::{Census, Class, Presence};
pub use look::{Found, look};
pub(crate) use roster::{Hand, Held, ROSTER_LIMIT, Roster};
pub(crate) use signals::{JobChanges, Signal, Signals};
pub(crate) use timed::Timed;

/// How a store hands out work, and names things where no name may stand.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// A lease lives this long after each renewal.
    pub(crate) lease: Duration,
    /// Tries of a task without getting further, after which it is dead.
    pub(crate) attempts: u32,
    /// The base model of jobs that name none; `None`: the only one that the fleet holds.
    pub(crate) base_model: Option<ModelDigest>,
    /// Names things in the audit log.
    pub(crate) blind: Blind,
}

/// A sweep may take this long before another coordinator begins it again.
pub(crate) const SWEEP_LIMIT: Duration = Duration::from_secs(60);

/// An upload may take this long.
pub(crate) const UPLOAD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// An upload that goes on.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) tenant: TenantId,
    pub(crate) subject: SubjectName,
    pub(crate) id: String,
}

/// A sweep of a subject's prefix that is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Erasure {
    pub(crate) tenant: TenantId,
    pub(crate) subject: SubjectName,
    pub(crate) id: String,
    /// No upload can go on meanwhile, so photos are swept too.
    pub(crate) locked: bool,
    /// What is to be written into the bucket before anything is swept.
    pub(crate) tombstone: Option<Tombstone>,
}

/// Tells of a forgetting, whatever becomes of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone {
    pub(crate) at: Timestamp,
    /// The audit entry of it.
    pub(crate) entry: Point,
}

/// Why a subject is forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Somebody asked.
    Asked(Actor),
    /// Its tenant keeps it no longer; looked at again in the transaction.
    Retention,
    /// It was forgotten at this time, and a restored backup holds it still; what was put later stays.
    Replay(Timestamp),
}

/// How an object is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Through a coordinator.
    Here,
    /// From the bucket, by a link.
    ByLink,
}

/// A subject was forgotten; its objects are still to be swept.
#[derive(Clone, Debug)]
pub(crate) struct Forgotten {
    pub(crate) at: Timestamp,
    /// The audit entry that tells of it.
    pub(crate) entry: Point,
    /// Jobs that lost the subject.
    pub(crate) jobs: Vec<String>,
    pub(crate) erasure: Erasure,
}

/// Which session of the status page: nobody chooses it.
pub(crate) type SessionId = [u8; 12];

/// A customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    pub(crate) created_at: Timestamp,
    pub(crate) terms: Terms,
}

/// What a tenant is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Days after which a subject that no job goes on with is forgotten; 0: never.
    pub(crate) retention_days: u32,
    /// Its share of the fleet against others that wait too, 1 to 1,000.
    pub(crate) weight: u32,
    pub(crate) limits: Limits,
}

impl Default for Terms {
    fn default() -> Self {
        Self { retention_days: 0, weight: 1, limits: Limits::default() }
    }
}

/// What a tenant may have at a time; 0: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Tasks that workers are at.
    pub(crate) running_tasks: u32,
    /// Jobs that have not ended.
    pub(crate) queued_jobs: u32,
    /// Of all objects that it may download.
    pub(crate) bytes: u64,
    /// Of all subjects.
    pub(crate) photos: u32,
}

/// Other terms; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TermsChange {
    pub(crate) retention_days: Option<u32>,
    pub(crate) weight: Option<u32>,
    pub(crate) running_tasks: Option<u32>,
    pub(crate) queued_jobs: Option<u32>,
    pub(crate) bytes: Option<u64>,
    pub(crate) photos: Option<u32>,
}

impl TermsChange {
    pub(crate) fn apply(&self, terms: &Terms) -> Terms {
        let limits = Limits {
            running_tasks: self.running_tasks.unwrap_or(terms.limits.running_tasks),
            queued_jobs: self.queued_jobs.unwrap_or(terms.limits.queued_jobs),
            bytes: self.bytes.unwrap_or(terms.limits.bytes),
            photos: self.photos.unwrap_or(terms.limits.photos),
        };
        let retention_days = self.retention_days.unwrap_or(terms.retention_days);
        Terms { retention_days, weight: self.weight.unwrap_or(terms.weight), limits }
    }
}

/// An API key as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) prefix: String,
    pub(crate) tenant: Option<TenantId>,
    pub(crate) role: Role,
    /// Of the whole key, under the pepper.
    pub(crate) hash: [u8; 32],
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) revoked_at: Option<Timestamp>,
}

/// An API key to be remembered.
#[derive(Clone, Debug)]
pub(crate) struct NewKey {
    pub(crate) prefix: String,
    pub(crate) hash: [u8; 32],
    pub(crate) tenant: Option<TenantId>,
    pub(crate) role: Role,
    /// `None`: it does not expire.
    pub(crate) life: Option<Duration>,
}

/// Which sweeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sweep {
    /// Those that are due.
    Due,
    /// All, however late: what is there now may be swept at any time.
    All,
}

/// What of a subject's way through a job a transaction changes, besides its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Tasks that are leased, and those that wait for them.
    Own,
    /// Those that are ready, too.
    Siblings,
}

/// What is remembered, and every way to change it. Each method is one transaction: all of it or nothing. The time is
/// the engine's.
pub(crate) trait Store: Send + Sync + 'static {
    /// Says what changes; see [`Signals`].
    fn signals(&self) -> &Signals;

    /// How it hands out work.
    fn policy(&self) -> &Policy;

    /// Ends every connection, so that what it lies in may be opened by another.
    fn close(&self) -> impl Future<Output = ()> + Send;

    /// Announces photos. Refused while the subject is being erased.
    fn begin_upload(&self, tenant: &TenantId, subject: &SubjectName) -> impl Answer<Upload>;
    /// Stores a subject whose photos lie in the bucket. Refused when it was forgotten since the upload began, and when its tenant
    /// has more than it may.
    fn commit_upload(
        &self,
        upload: &Upload,
        consent: &Consent,
        photos: &[Photo],
        by: &Actor,
    ) -> impl Answer<v1::Subject>;
    /// Ends an upload that failed; what it wrote will be swept.
    fn abandon_upload(&self, upload: &Upload) -> impl Answer<()>;
    /// One subject.
    fn subject(&self, tenant: &TenantId, name: &SubjectName) -> impl Answer<v1::Subject>;
    /// All subjects, by name.
    fn subjects(&self, tenant: &TenantId) -> impl Answer<Vec<v1::Subject>>;

    /// Removes all that is known of a subject, cancels its work, and owes its erasure, now and again later, when no
    /// worker can be writing any more.
    fn forget(&self, tenant: &TenantId, subject: &SubjectName, cause: &Cause) -> impl Answer<Forgotten>;
    /// Subjects of all tenants after one of them, in order, `limit` at most, and when their photos came last.
    fn subjects_after(
        &self,
        last: Option<&(TenantId, SubjectName)>,
        limit: u32,
    ) -> impl Answer<Vec<(TenantId, SubjectName, Timestamp)>>;
    /// The sweeps that are owed and that nobody is at, locked where no upload goes on. They are the caller's for [`SWEEP_LIMIT`].
    fn owed(&self, sweep: Sweep) -> impl Answer<Vec<Erasure>>;
    /// Which of the keys, listed under the erasure's prefix, belong to nothing that is known.
    fn unknown(&self, erasure: &Erasure, keys: Vec<ObjectKey>) -> impl Answer<Vec<ObjectKey>>;
    /// Ends a sweep; one that is not yet due, or could not touch photos, stays owed.
    fn swept(&self, erasure: &Erasure) -> impl Answer<()>;

    /// Accepts a job, once for each idempotency key; `request` is the request's digest. Refused when its tenant has as many as it may.
    fn submit(&self, tenant: &TenantId, submission: &Submission, request: [u8; 32], by: &Actor)
    -> impl Answer<v1::Job>;
    /// One job.
    fn job(&self, tenant: &TenantId, job: JobId) -> impl Answer<v1::Job>;
    /// Jobs, newest first.
    fn jobs(&self, tenant: &TenantId, limit: u32) -> impl Answer<Vec<v1::Job>>;
    /// Cancels what is left of a job.
    fn cancel(&self, tenant: &TenantId, job: JobId, by: &Actor) -> impl Answer<v1::Job>;
    /// The loss curve of a subject of a job.
    fn losses(&self, tenant: &TenantId, job: JobId, subject: &SubjectName) -> impl Answer<v1::LossCurve>;
    /// A committed object.
    fn object(&self, tenant: &TenantId, key: &ObjectKey) -> impl Answer<ObjectRef>;
    /// A committed object that is about to be read by somebody.
    fn open_object(&self, tenant: &TenantId, key: &ObjectKey, reading: Reading, by: &Actor) -> impl Answer<ObjectRef>;

    /// Makes a tenant; one that is there stays as it is.
    fn create_tenant(&self, tenant: &TenantId, terms: &Terms, by: &Actor) -> impl Answer<Tenant>;
    /// Changes what a tenant is given.
    fn update_tenant(&self, tenant: &TenantId, change: &TermsChange, by: &Actor) -> impl Answer<Tenant>;
    /// One tenant.
    fn tenant(&self, tenant: &TenantId) -> impl Answer<Tenant>;
    /// All tenants, by id.
    fn tenants(&self) -> impl Answer<Vec<Tenant>>;
    /// Remembers a key.
    fn create_key(&self, key: &NewKey, by: &Actor) -> impl Answer<Key>;
    /// All keys, or those of a tenant.
    fn keys(&self, tenant: Option<&TenantId>) -> impl Answer<Vec<Key>>;
    /// The key of this prefix, if it is neither revoked nor expired.
    fn live_key(&self, prefix: &str) -> impl Answer<Option<Key>>;
    /// Remembers a key that opens what `old` does; `old` goes on for no longer than `overlap`.
    fn rotate_key(&self, old: &str, prefix: &str, hash: [u8; 32], overlap: Duration, by: &Actor) -> impl Answer<Key>;
    /// Ends a key.
    fn revoke_key(&self, prefix: &str, by: &Actor) -> impl Answer<Key>;
    /// Ends a session of the status page, which would last until `ends`.
    fn end_session(&self, session: &SessionId, ends: Timestamp) -> impl Answer<()>;
    /// Whether it was ended.
    fn session_ended(&self, session: &SessionId) -> impl Answer<bool>;

    /// Entries of the audit log after `sequence`, in order, `limit` at most. `AuditLog` reads it without a coordinator.
    fn audited(&self, sequence: u64, limit: u32) -> impl Answer<Vec<crate::audit::Entry>>;

    /// Takes or keeps a turn at work that one coordinator does for all, for `span`; answers whether it is `holder`'s.
    fn take_turn(&self, work: &str, holder: Uuid, span: Duration) -> impl Answer<bool>;
    /// Which of the keys of a subject nothing refers to, now or ever again. Photos are swept instead: see `owed`.
    fn garbage(&self, of: &TenantId, subject: &SubjectName, keys: Vec<ObjectKey>) -> impl Answer<Vec<ObjectKey>>;
    /// Subjects that their tenant keeps no longer.
    fn overdue(&self) -> impl Answer<Vec<(TenantId, SubjectName)>>;

    /// Remembers a worker. Leases of an earlier incarnation of it are taken back: that process is gone.
    fn register(&self, registration: &Registration) -> impl Answer<()>;
    /// Leases tasks that are ready to a worker, dealt among tenants by [`crate::lifecycle::Deal`], within their limits.
    fn claim(&self, ask: &LeaseAsk) -> impl Answer<Vec<v1::Grant>>;
    /// Who works on what: the whole fleet, or what is leased of a tenant's tasks. At most [`ROSTER_LIMIT`] of either.
    fn roster(&self, of: Option<&TenantId>) -> impl Answer<Roster>;
    /// Under which prefix a lease writes; of a past lease too.
    fn outputs(&self, lease: LeaseId) -> impl Answer<Prefix>;
    /// Prolongs leases and records progress; one answer for each renewal.
    fn renew(&self, renewals: &Renewals) -> impl Answer<Vec<Verdict>>;
    /// Records a result and makes what waited for it ready.
    fn complete(&self, completion: &Completion) -> impl Answer<()>;
    /// Records a failed try.
    fn fail(&self, failure: &Failure) -> impl Answer<()>;
    /// Takes a task back unfinished.
    fn release(&self, release: &Release) -> impl Answer<()>;
    /// Takes back leases and uploads that have run out.
    fn expire(&self) -> impl Answer<()>;
    /// What the fleet is at. Takes longer the more tasks wait.
    fn census(&self) -> impl Answer<Census>;
}

/// What a store's methods answer.
pub(crate) trait Answer<T>: Future<Output = Result<T, StoreError>> + Send {}

impl<T, F: Future<Output = Result<T, StoreError>> + Send> Answer<T> for F {}

/// Why a store did not do as told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The request is at fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The disk under the store is full.
    #[error("the disk under the store is full; free some space and try again")]
    Full,
    /// The connection was lost.
    #[error("the store does not answer: {0}")]
    Gone(String),
    /// Another transaction was in the way, each time that this one was tried.
    #[error("the store is too busy ({0}); try again")]
    Contended(String),
    /// The engine failed.
    #[error("the store does not answer: {0}")]
    Engine(String),
    /// What is stored cannot be read back.
    #[error("the store holds a record that cannot be read ({0}); restore it from a backup")]
    Record(String),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::Refused(refusal) => return refusal,
            StoreError::Full => ErrorCode::StorageFull,
            StoreError::Gone(_) | StoreError::Contended(_) | StoreError::Engine(_) => ErrorCode::StorageUnavailable,
            StoreError::Record(_) => ErrorCode::Internal,
        };
        Refusal::new(code, error.to_string())
    }
}

/// The refusals that engines share.
pub(crate) mod refusals {
    use super::{Duration, ErrorCode, Refusal};
    use crate::lifecycle::Refused;
    use likeness_proto::{JobId, LeaseId, SubjectName, TenantId};

    /// When a tenant that has all the jobs it may should look again whether one has ended.
    const JOBS_END: Duration = Duration::from_secs(30);

    pub(crate) fn too_many_jobs(tenant: &TenantId, jobs: u64, most: u32) -> Refusal {
        let message = format!(
            "tenant {tenant} has {jobs} jobs that have not ended, and may have {most}; wait for one, or cancel one"
        );
        Refusal::new(ErrorCode::QuotaExceeded, message).retry_after(JOBS_END)
    }

    pub(crate) fn too_many_photos(tenant: &TenantId, photos: u64, most: u32) -> Refusal {
        let message =
            format!("tenant {tenant} would have {photos} photos, and may have {most}; forget a subject, or send fewer");
        Refusal::new(ErrorCode::QuotaExceeded, message)
    }

    pub(crate) fn too_many_bytes(tenant: &TenantId, bytes: u64, most: u64) -> Refusal {
        let message = format!("tenant {tenant} has {bytes} bytes stored, and may have {most}; forget a subject");
        Refusal::new(ErrorCode::QuotaExceeded, message)
    }

    pub(crate) fn unknown_subject(subject: &SubjectName) -> Refusal {
        let message = format!("there is no subject {subject}; `subjects` shows those there are, put it first");
        Refusal::new(ErrorCode::UnknownSubject, message)
    }

    pub(crate) fn unknown_job(job: JobId) -> Refusal {
        Refusal::new(ErrorCode::UnknownJob, format!("there is no job {job}; `list` shows those there are"))
    }

    pub(crate) fn being_erased(subject: &SubjectName) -> Refusal {
        let message = format!("subject {subject} is being erased; try again in a moment");
        Refusal::new(ErrorCode::Unavailable, message)
    }

    pub(crate) fn forgotten(subject: &SubjectName) -> Refusal {
        Refusal::new(ErrorCode::SubjectForgotten, format!("subject {subject} was erased"))
    }

    pub(crate) fn stale(lease: LeaseId) -> Refusal {
        let LeaseId { task, fence } = lease;
        Refusal::new(
            ErrorCode::StaleFence,
            format!("fence {fence} of task {task} is not the current one; stop the task"),
        )
    }

    pub(crate) fn refused(refused: Refused, lease: LeaseId) -> Refusal {
        match refused {
            Refused::Stale | Refused::Untimely => stale(lease),
            Refused::Cancelled => {
                Refusal::new(ErrorCode::StaleFence, format!("task {} was cancelled; stop it", lease.task))
            }
        }
    }
}
