//! The embedded engine: one SQLite file, one writer, several readers.

mod courses;
mod erasures;
mod fleet;
mod jobs;
mod losses;
mod open;
mod reports;
mod results;
mod rows;
mod subjects;
mod submit;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use likeness_proto::v1;
use likeness_proto::{
    Completion, Consent, Failure, JobId, LeaseAsk, LeaseId, ObjectKey, ObjectRef, Photo, Prefix, Registration, Release,
    Renewals, SubjectName, Submission, TenantId, Verdict,
};
use sqlx::pool::PoolConnection;
use sqlx::{Sqlite, SqlitePool, Transaction};

use super::{Erasure, Forgotten, Policy, Signal, Signals, Store, StoreError, Sweep, Upload};
use crate::clock::{Clock, Timestamp};

pub use open::OpenError;

type Result<T> = std::result::Result<T, StoreError>;

/// A store in one SQLite file.
pub(crate) struct SqliteStore {
    /// One connection: SQLite has one writer, and waiting here is fairer than its busy handler.
    writer: SqlitePool,
    readers: SqlitePool,
    clock: Arc<dyn Clock>,
    policy: Policy,
    signals: Arc<Signals>,
}

/// A transaction that writes, and whom to tell once it is committed.
///
/// SQLite ends a transaction by itself when the disk is full, behind the back of `sqlx::Transaction`. So this one keeps
/// its own account, and a connection whose transaction did not end in order is closed rather than used again.
pub(super) struct Writing {
    tx: PoolConnection<Sqlite>,
    is_open: bool,
    now: Timestamp,
    policy: Policy,
    signals: Vec<Signal>,
}

impl Writing {
    fn tell(&mut self, signal: Signal) {
        if !self.signals.contains(&signal) {
            self.signals.push(signal);
        }
    }

    async fn end(&mut self, statement: &'static str) -> Result<()> {
        sqlx::query(statement).execute(&mut *self.tx).await?;
        self.is_open = false;
        Ok(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.is_open {
            self.tx.close_on_drop();
        }
    }
}

impl SqliteStore {
    async fn write(&self) -> Result<Writing> {
        let tx = self.writer.acquire().await?;
        let (policy, signals) = (self.policy.clone(), Vec::new());
        let mut writing = Writing { tx, is_open: true, now: self.clock.now(), policy, signals };
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *writing.tx).await?;
        // Read after the lock is held, so that later transactions have later times.
        writing.now = self.clock.now();
        Ok(writing)
    }

    /// Commits and then tells, in a task of its own: a caller that goes away meanwhile takes no signal with it.
    async fn commit(&self, mut writing: Writing) -> Result<()> {
        let signals = Arc::clone(&self.signals);
        let committing = tokio::spawn(async move {
            writing.end("COMMIT").await?;
            std::mem::take(&mut writing.signals).into_iter().for_each(|signal| signals.send(signal));
            Ok(())
        });
        committing.await.map_err(|error| StoreError::Engine(error.to_string()))?
    }

    /// Ends a transaction, all of it or nothing, by what it came to.
    async fn end<T>(&self, mut writing: Writing, answer: Result<T>) -> Result<T> {
        match answer {
            Ok(answer) => self.commit(writing).await.map(|()| answer),
            Err(error) => {
                // When this fails too, the connection is closed, which does the same.
                let _ended = writing.end("ROLLBACK").await;
                Err(error)
            }
        }
    }

    /// A snapshot to read from.
    async fn read(&self) -> Result<Transaction<'static, Sqlite>> {
        Ok(self.readers.begin().await?)
    }
}

/// Runs a function of a [`Writing`] as one transaction.
macro_rules! write {
    ($self:ident, $function:path $(, $argument:expr)*) => {{
        let mut writing = $self.write().await?;
        let answer = $function(&mut writing $(, $argument)*).await;
        $self.end(writing, answer).await
    }};
}

impl Store for SqliteStore {
    fn signals(&self) -> &Signals {
        &self.signals
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    async fn begin_upload(&self, tenant: &TenantId, subject: &SubjectName) -> Result<Upload> {
        write!(self, subjects::begin_upload, tenant, subject)
    }

    async fn commit_upload(&self, upload: &Upload, consent: &Consent, photos: &[Photo]) -> Result<v1::Subject> {
        write!(self, subjects::commit_upload, upload, consent, photos)
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

    async fn forget(&self, tenant: &TenantId, subject: &SubjectName) -> Result<Forgotten> {
        write!(self, erasures::forget, tenant, subject)
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

    async fn submit(&self, tenant: &TenantId, submission: &Submission, request: [u8; 32]) -> Result<v1::Job> {
        write!(self, submit::submit, tenant, submission, request)
    }

    async fn job(&self, tenant: &TenantId, job: JobId) -> Result<v1::Job> {
        jobs::get(&mut *self.read().await?, tenant, job).await
    }

    async fn jobs(&self, tenant: &TenantId, limit: u32) -> Result<Vec<v1::Job>> {
        jobs::list(&mut *self.read().await?, tenant, limit).await
    }

    async fn cancel(&self, tenant: &TenantId, job: JobId) -> Result<v1::Job> {
        write!(self, jobs::cancel, tenant, job)
    }

    async fn losses(&self, tenant: &TenantId, job: JobId, subject: &SubjectName) -> Result<v1::LossCurve> {
        losses::curve(&mut *self.read().await?, tenant, job, subject).await
    }

    async fn object(&self, tenant: &TenantId, key: &ObjectKey) -> Result<ObjectRef> {
        subjects::object(&mut *self.read().await?, tenant, key).await
    }

    async fn register(&self, registration: &Registration) -> Result<()> {
        write!(self, fleet::register, registration)
    }

    async fn claim(&self, ask: &LeaseAsk) -> Result<Vec<v1::Grant>> {
        write!(self, fleet::claim, ask)
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
}
