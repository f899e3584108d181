//! A store whose transactions are timed.

use std::time::Duration;

use likeness_proto::v1;
use likeness_proto::{
    Completion, Consent, Failure, JobId, LeaseAsk, LeaseId, ObjectKey, ObjectRef, Photo, Prefix, Registration, Release,
    Renewals, SubjectName, Submission, TenantId, Verdict,
};
use likeness_telemetry::{child, metrics::Stopwatch};
use tracing::Instrument;
use uuid::Uuid;

use super::{
    Cause, Census, Erasure, Forgotten, Key, NewKey, Policy, Reading, Roster, SessionId, Signals, Store, StoreError,
    Sweep, Tenant, Terms, TermsChange, Upload,
};
use crate::audit::Actor;
use crate::clock::Timestamp;
use crate::metrics;

/// Does what the store in it does, and tells how long that took.
#[derive(Debug)]
pub(crate) struct Timed<S>(pub(crate) S);

type Result<T> = std::result::Result<T, StoreError>;

/// The methods as they are declared, each passed on under its own name.
macro_rules! timed {
    ($($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)+) => {
        impl<S: Store> Store for Timed<S> {
            fn signals(&self) -> &Signals {
                self.0.signals()
            }

            fn policy(&self) -> &Policy {
                self.0.policy()
            }

            async fn close(&self) {
                self.0.close().await;
            }

            $($(#[$attribute])* async fn $name(&self, $($argument: $type),*) -> Result<$answer> {
                let began = Stopwatch::start();
                let name = concat!("store ", stringify!($name));
                let span = child!("store", otel.name = name, likeness.store.operation = stringify!($name));
                let answer = self.0.$name($($argument),*).instrument(span).await;
                metrics::store(stringify!($name), began, &answer);
                answer
            })+
        }
    };
}

timed! {
    fn begin_upload(tenant: &TenantId, subject: &SubjectName) -> Upload;
    fn commit_upload(upload: &Upload, consent: &Consent, photos: &[Photo], by: &Actor) -> v1::Subject;
    fn abandon_upload(upload: &Upload) -> ();
    fn subject(tenant: &TenantId, name: &SubjectName) -> v1::Subject;
    fn subjects(tenant: &TenantId) -> Vec<v1::Subject>;
    fn forget(tenant: &TenantId, subject: &SubjectName, cause: &Cause) -> Forgotten;
    fn subjects_after(last: Option<&(TenantId, SubjectName)>, limit: u32) -> Vec<(TenantId, SubjectName, Timestamp)>;
    fn owed(sweep: Sweep) -> Vec<Erasure>;
    fn unknown(erasure: &Erasure, keys: Vec<ObjectKey>) -> Vec<ObjectKey>;
    fn swept(erasure: &Erasure) -> ();
    fn submit(tenant: &TenantId, submission: &Submission, request: [u8; 32], by: &Actor) -> v1::Job;
    fn job(tenant: &TenantId, job: JobId) -> v1::Job;
    fn jobs(tenant: &TenantId, limit: u32) -> Vec<v1::Job>;
    fn cancel(tenant: &TenantId, job: JobId, by: &Actor) -> v1::Job;
    fn losses(tenant: &TenantId, job: JobId, subject: &SubjectName) -> v1::LossCurve;
    fn object(tenant: &TenantId, key: &ObjectKey) -> ObjectRef;
    fn open_object(tenant: &TenantId, key: &ObjectKey, reading: Reading, by: &Actor) -> ObjectRef;
    fn create_tenant(tenant: &TenantId, terms: &Terms, by: &Actor) -> Tenant;
    fn update_tenant(tenant: &TenantId, change: &TermsChange, by: &Actor) -> Tenant;
    fn tenant(tenant: &TenantId) -> Tenant;
    fn tenants() -> Vec<Tenant>;
    fn create_key(key: &NewKey, by: &Actor) -> Key;
    fn keys(tenant: Option<&TenantId>) -> Vec<Key>;
    fn live_key(prefix: &str) -> Option<Key>;
    fn rotate_key(old: &str, prefix: &str, hash: [u8; 32], overlap: Duration, by: &Actor) -> Key;
    fn revoke_key(prefix: &str, by: &Actor) -> Key;
    fn end_session(session: &SessionId, ends: Timestamp) -> ();
    fn session_ended(session: &SessionId) -> bool;
    fn audited(sequence: u64, limit: u32) -> Vec<crate::audit::Entry>;
    fn take_turn(work: &str, holder: Uuid, span: Duration) -> bool;
    fn garbage(of: &TenantId, subject: &SubjectName, keys: Vec<ObjectKey>) -> Vec<ObjectKey>;
    fn overdue() -> Vec<(TenantId, SubjectName)>;
    fn register(registration: &Registration) -> ();
    fn claim(ask: &LeaseAsk) -> Vec<v1::Grant>;
    fn roster(of: Option<&TenantId>) -> Roster;
    fn outputs(lease: LeaseId) -> Prefix;
    fn renew(renewals: &Renewals) -> Vec<Verdict>;
    fn complete(completion: &Completion) -> ();
    fn fail(failure: &Failure) -> ();
    fn release(release: &Release) -> ();
    fn expire() -> ();
    fn census() -> Census;
}
