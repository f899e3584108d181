//! A [`Store`] over a database: transactions, and whom to tell once they are committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use likeness_proto::v1;
use likeness_proto::{
    Completion, Consent, Failure, JobId, LeaseAsk, LeaseId, ObjectKey, ObjectRef, Photo, Prefix, Registration, Release,
    Renewals, SubjectName, Submission, TaskId, TaskKind, TenantId, Verdict,
};
use sqlx::{Pool, Transaction};
use uuid::Uuid;

use super::dialect::{self, Connection, Db};
use super::turn::{Turn, Writer};
use super::{
    Result, census, courses, erasures, fleet, jobs, keys, losses, reports, roster, sessions, shares, subjects, submit,
    tenants, upkeep,
};
use crate::audit::Actor;
use crate::clock::{Clock, Timestamp};
use crate::lifecycle::JobState;
use crate::metrics::{self, Attempt};
use crate::store::{
    Cause, Census, Erasure, Forgotten, Key, NewKey, Policy, Reading, Roster, SessionId, Signal, Signals, Store,
    StoreError, Sweep, Tenant, Terms, TermsChange, Upload,
};

/// A store in a database of the dialect.
pub(crate) struct Engine {
    pub(in crate::store) writer: Writer,
    pub(in crate::store) readers: Pool<Db>,
    /// `None`: the database's own.
    pub(in crate::store) clock: Option<Arc<dyn Clock>>,
    pub(in crate::store) policy: Policy,
    pub(in crate::store) signals: Arc<Signals>,
}

/// A transaction that writes, and whom to tell once it is committed.
pub(in crate::store) struct Writing {
    pub(super) tx: Turn,
    pub(super) now: Timestamp,
    pub(super) policy: Policy,
    signals: Vec<Signal>,
    /// Jobs whose subjects it changed.
    pub(super) touched: BTreeSet<(TenantId, JobId)>,
    /// Queues into which it put tasks, each by one of those.
    pub(super) readied: BTreeMap<(TenantId, JobId, TaskKind), TaskId>,
    /// Tenants of which a task may have stopped running.
    pub(super) freed: BTreeSet<TenantId>,
    /// What is counted once it is committed.
    pub(super) tally: Tally,
}

/// What a transaction ends.
#[derive(Debug, Default)]
pub(in crate::store) struct Tally {
    pub(super) attempts: Vec<Attempt>,
    pub(super) jobs: Vec<JobState>,
}

impl Tally {
    fn count(self) {
        self.attempts.into_iter().for_each(metrics::attempt);
        self.jobs.into_iter().for_each(metrics::job_ended);
    }
}

impl Writing {
    pub(super) fn tell(&mut self, signal: Signal) {
        if !self.signals.contains(&signal) {
            self.signals.push(signal);
        }
    }

    /// Remembers to bring a job up to date.
    pub(super) fn touch(&mut self, tenant: &TenantId, job: JobId) {
        self.touched.insert((tenant.clone(), job));
    }

    /// Remembers to see to it that a task which is ready is waited for in its queue.
    pub(super) fn ready(&mut self, tenant: &TenantId, job: JobId, kind: TaskKind, task: TaskId) {
        self.readied.insert((tenant.clone(), job, kind), task);
    }
}

/// Connections that may have died since they were last used: as many as a pool has, and one that is new.
const STALE_CONNECTIONS: u32 = dialect::CONNECTIONS + 1;

impl Engine {
    async fn write(&self) -> Result<Writing> {
        for _ in 1..STALE_CONNECTIONS {
            match self.begin().await {
                Err(StoreError::Gone(_)) => {}
                begun => return begun,
            }
        }
        self.begin().await
    }

    async fn begin(&self) -> Result<Writing> {
        let mut tx = self.writer.begin().await?;
        // Read when it is its turn on SQLite, so that later transactions have later times.
        let now = self.now(&mut tx).await?;
        let (policy, signals) = (self.policy.clone(), Vec::new());
        let (touched, readied, freed, tally) = Default::default();
        Ok(Writing { tx, now, policy, signals, touched, readied, freed, tally })
    }

    async fn now(&self, tx: &mut Connection) -> Result<Timestamp> {
        match &self.clock {
            Some(clock) => Ok(clock.now()),
            None => dialect::now(tx).await,
        }
    }

    /// Commits and then tells, in a task of its own: a caller that goes away meanwhile takes no signal with it.
    async fn commit(&self, writing: Writing) -> Result<()> {
        let told = Arc::clone(&self.signals);
        let committing = tokio::spawn(async move {
            let Writing { tx, tally, signals, .. } = writing;
            tx.commit().await?;
            tally.count();
            signals.into_iter().for_each(|signal| told.send(signal));
            Ok(())
        });
        committing.await.map_err(|error| StoreError::Engine(error.to_string()))?
    }

    /// Ends a transaction, all of it or nothing, by what it came to.
    async fn end<T>(&self, mut writing: Writing, answer: Result<T>) -> Result<T> {
        let answer = match answer {
            Ok(answer) => follow_up(&mut writing).await.map(|()| answer),
            refused => refused,
        };
        match answer {
            Ok(answer) => self.commit(writing).await.map(|()| answer),
            Err(error) => {
                writing.tx.roll_back().await;
                Err(error)
            }
        }
    }

    /// A snapshot to read from.
    async fn read(&self) -> Result<Transaction<'static, Db>> {
        for _ in 1..STALE_CONNECTIONS {
            match self.readers.begin_with(dialect::READ).await.map_err(StoreError::from) {
                Err(StoreError::Gone(_)) => {}
                begun => return begun,
            }
        }
        Ok(self.readers.begin_with(dialect::READ).await?)
    }
}

/// What follows from what a transaction did, last, so that locks are taken in one order.
async fn follow_up(writing: &mut Writing) -> Result<()> {
    courses::roll_up(writing).await?;
    tenants::tell_freed(writing).await?;
    shares::enqueue(writing).await
}

/// Times that a transaction is tried while others are in its way.
const TRIES: u32 = 8;

/// Runs a function of a [`Writing`] as one transaction.
macro_rules! write {
    ($self:ident, $function:path $(, $argument:expr)*) => {{
        let mut tries = 1;
        loop {
            let mut writing = $self.write().await?;
            let answer = $function(&mut writing $(, $argument)*).await;
            match $self.end(writing, answer).await {
                Err(StoreError::Contended(why)) if tries < TRIES => {
                    tracing::debug!(why, tries, "transaction in another's way, tried again");
                    tries += 1;
                }
                ended => return ended,
            }
        }
    }};
}

impl Store for Engine {
    fn signals(&self) -> &Signals {
        &self.signals
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn begin_upload(&self, tenant: &TenantId, subject: &SubjectName) -> Result<Upload> {
        write!(self, subjects::begin_upload, tenant, subject)
    }

    async fn commit_upload(
        &self,
        upload: &Upload,
        consent: &Consent,
        photos: &[Photo],
        by: &Actor,
    ) -> Result<v1::Subject> {
        write!(self, subjects::commit_upload, upload, consent, photos, by)
    }

    async fn abandon_upload(&self, upload: &Upload) -> Result<()> {
        write!(self, subjects::abandon_upload, upload)
    }

    async fn subject(&self, tenant: &TenantId, name: &SubjectName) -> Result<v1::Subject> {
        subjects::get(&mut *self.read().await?, tenant, name).await
    }

    async fn subjects(&self, tenant: &TenantId) -> Result<Vec<v1::Subject>> {
        subjects::list(&mut *self.read().await?, tenant).await
    }

    async fn forget(&self, tenant: &TenantId, subject: &SubjectName, cause: &Cause) -> Result<Forgotten> {
        write!(self, erasures::forget, tenant, subject, cause)
    }

    async fn subjects_after(
        &self,
        last: Option<&(TenantId, SubjectName)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, SubjectName, Timestamp)>> {
        subjects::after(&mut *self.read().await?, last, limit).await
    }

    async fn owed(&self, sweep: Sweep) -> Result<Vec<Erasure>> {
        write!(self, erasures::owed, sweep)
    }

    async fn unknown(&self, erasure: &Erasure, keys: Vec<ObjectKey>) -> Result<Vec<ObjectKey>> {
        erasures::unknown(&mut *self.read().await?, erasure, keys).await
    }

    async fn swept(&self, erasure: &Erasure) -> Result<()> {
        write!(self, erasures::swept, erasure)
    }

    async fn submit(
        &self,
        tenant: &TenantId,
        submission: &Submission,
        request: [u8; 32],
        by: &Actor,
    ) -> Result<v1::Job> {
        write!(self, submit::submit, tenant, submission, request, by)
    }

    async fn job(&self, tenant: &TenantId, job: JobId) -> Result<v1::Job> {
        jobs::get(&mut *self.read().await?, tenant, job).await
    }

    async fn jobs(&self, tenant: &TenantId, limit: u32) -> Result<Vec<v1::Job>> {
        jobs::list(&mut *self.read().await?, tenant, limit).await
    }

    async fn cancel(&self, tenant: &TenantId, job: JobId, by: &Actor) -> Result<v1::Job> {
        write!(self, jobs::cancel, tenant, job, by)
    }

    async fn losses(&self, tenant: &TenantId, job: JobId, subject: &SubjectName) -> Result<v1::LossCurve> {
        losses::curve(&mut *self.read().await?, tenant, job, subject).await
    }

    async fn object(&self, tenant: &TenantId, key: &ObjectKey) -> Result<ObjectRef> {
        subjects::object(&mut *self.read().await?, tenant, key).await
    }

    async fn open_object(&self, tenant: &TenantId, key: &ObjectKey, reading: Reading, by: &Actor) -> Result<ObjectRef> {
        write!(self, subjects::open_object, tenant, key, reading, by)
    }

    async fn create_tenant(&self, tenant: &TenantId, terms: &Terms, by: &Actor) -> Result<Tenant> {
        write!(self, tenants::create, tenant, terms, by)
    }

    async fn update_tenant(&self, tenant: &TenantId, change: &TermsChange, by: &Actor) -> Result<Tenant> {
        write!(self, tenants::update, tenant, change, by)
    }

    async fn tenant(&self, tenant: &TenantId) -> Result<Tenant> {
        tenants::get(&mut *self.read().await?, tenant).await
    }

    async fn tenants(&self) -> Result<Vec<Tenant>> {
        tenants::list(&mut *self.read().await?).await
    }

    async fn create_key(&self, key: &NewKey, by: &Actor) -> Result<Key> {
        write!(self, keys::create_key, key, by)
    }

    async fn keys(&self, tenant: Option<&TenantId>) -> Result<Vec<Key>> {
        keys::list(&mut *self.read().await?, tenant).await
    }

    async fn live_key(&self, prefix: &str) -> Result<Option<Key>> {
        let mut snapshot = self.read().await?;
        let now = self.now(&mut snapshot).await?;
        keys::live(&mut snapshot, prefix, now).await
    }

    async fn rotate_key(&self, old: &str, prefix: &str, hash: [u8; 32], overlap: Duration, by: &Actor) -> Result<Key> {
        write!(self, keys::rotate, old, prefix, hash, overlap, by)
    }

    async fn revoke_key(&self, prefix: &str, by: &Actor) -> Result<Key> {
        write!(self, keys::revoke, prefix, by)
    }

    async fn end_session(&self, session: &SessionId, ends: Timestamp) -> Result<()> {
        write!(self, sessions::end, session, ends)
    }

    async fn session_ended(&self, session: &SessionId) -> Result<bool> {
        sessions::has_ended(&mut *self.read().await?, session).await
    }

    async fn audited(&self, sequence: u64, limit: u32) -> Result<Vec<crate::audit::Entry>> {
        super::audit::after(&mut *self.read().await?, sequence, limit).await
    }

    async fn take_turn(&self, work: &str, holder: Uuid, span: Duration) -> Result<bool> {
        write!(self, upkeep::take_turn, work, holder, span)
    }

    async fn garbage(&self, of: &TenantId, subject: &SubjectName, keys: Vec<ObjectKey>) -> Result<Vec<ObjectKey>> {
        write!(self, upkeep::garbage, of, subject, keys.clone())
    }

    async fn overdue(&self) -> Result<Vec<(TenantId, SubjectName)>> {
        let mut snapshot = self.read().await?;
        let now = self.now(&mut snapshot).await?;
        upkeep::overdue(&mut snapshot, now).await
    }

    async fn register(&self, registration: &Registration) -> Result<()> {
        write!(self, fleet::register, registration)
    }

    async fn claim(&self, ask: &LeaseAsk) -> Result<Vec<v1::Grant>> {
        write!(self, fleet::claim, ask)
    }

    async fn roster(&self, of: Option<&TenantId>) -> Result<Roster> {
        roster::roster(&mut *self.read().await?, of).await
    }

    async fn outputs(&self, lease: LeaseId) -> Result<Prefix> {
        reports::outputs(&mut *self.read().await?, lease).await
    }

    async fn renew(&self, renewals: &Renewals) -> Result<Vec<Verdict>> {
        write!(self, reports::renew, renewals)
    }

    async fn complete(&self, completion: &Completion) -> Result<()> {
        write!(self, reports::complete, completion)
    }

    async fn fail(&self, failure: &Failure) -> Result<()> {
        write!(self, reports::fail, failure)
    }

    async fn release(&self, release: &Release) -> Result<()> {
        write!(self, reports::release, release)
    }

    async fn expire(&self) -> Result<()> {
        write!(self, reports::expire)
    }

    async fn census(&self) -> Result<Census> {
        let mut snapshot = self.read().await?;
        let now = self.now(&mut snapshot).await?;
        census::count(&mut snapshot, now).await
    }
}
