//! A store in memory, for tests: it keeps the contract, takes its time and ids from the test, and has weather: what befalls
//! transactions on their way. Any number of stores are opened on one [`Database`], which outlives them.

mod census;
mod fleet;
mod people;
mod roster;
mod shares;
mod tables;
mod upkeep;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use likeness_proto::v1;
use likeness_proto::{
    Completion, Consent, ErrorCode, Failure, JobId, LeaseAsk, LeaseId, ObjectKey, ObjectRef, Photo, Prefix,
    Registration, Release, Renewals, SubjectName, Submission, TenantId, Verdict,
};
use tokio::sync::mpsc;
use uuid::Uuid;

use self::tables::{Tables, Writing};
use super::contract::{Engine, contract};
use super::signals::Others;
use super::{
    Cause, Census, Erasure, Forgotten, Key, NewKey, Policy, Reading, Roster, SessionId, Signal, Signals, Store,
    StoreError, Sweep, Tenant, Terms, TermsChange, Upload,
};
use crate::audit::{Actor, Entry};
use crate::clock::{Clock, Timestamp};

pub(crate) use tables::Ledger;

type Result<T> = std::result::Result<T, StoreError>;

/// What befalls a transaction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fate {
    /// How long it takes, half of it before it is committed.
    pub(crate) wait: Duration,
    pub(crate) fault: Option<Fault>,
}

/// How a transaction fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not begun.
    Refused,
    /// It is committed, and its answer lost.
    Unanswered,
}

/// Decides what befalls transactions.
pub(crate) trait Weather: Send + Sync {
    /// The fate of the next transaction.
    fn fate(&self, what: &'static str) -> Fate;
    /// Whether another coordinator hears of a change.
    fn carries(&self, signal: Signal) -> bool;
}

/// No wind.
struct Calm;

impl Weather for Calm {
    fn fate(&self, _what: &'static str) -> Fate {
        Fate::default()
    }

    fn carries(&self, _signal: Signal) -> bool {
        true
    }
}

/// What is remembered.
#[derive(Default)]
pub(crate) struct Database {
    tables: Mutex<Tables>,
    opened: Mutex<Vec<Weak<Signals>>>,
}

impl Database {
    /// What has happened, as invariants look at it.
    pub(crate) fn ledger(&self) -> Ledger {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).ledger()
    }

    fn tell(&self, own: &Arc<Signals>, signals: &[Signal], weather: &dyn Weather) {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        for other in opened.iter().filter_map(Weak::upgrade) {
            for signal in signals {
                if Arc::ptr_eq(own, &other) || weather.carries(*signal) {
                    other.hear(*signal);
                }
            }
        }
    }
}

/// One coordinator's store over a [`Database`].
pub(crate) struct Memory {
    database: Arc<Database>,
    clock: Arc<dyn Clock>,
    policy: Policy,
    signals: Arc<Signals>,
    weather: Arc<dyn Weather>,
}

/// How often a coordinator looks unasked.
const POLL: Duration = Duration::from_secs(3);

impl Memory {
    /// Opens a store that nothing befalls.
    pub(crate) fn open(database: &Arc<Database>, clock: Arc<dyn Clock>, policy: Policy) -> Self {
        Self::in_weather(database, clock, policy, Arc::new(Calm))
    }

    /// Opens a store whose transactions meet `weather`.
    pub(crate) fn in_weather(
        database: &Arc<Database>,
        clock: Arc<dyn Clock>,
        policy: Policy,
        weather: Arc<dyn Weather>,
    ) -> Self {
        // Others are told by the database; the outbox stays unread.
        let signals = Arc::new(Signals::new(Some(Others { outbox: mpsc::channel(1).0, poll: POLL })));
        database.opened.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&signals));
        Self { database: Arc::clone(database), clock, policy, signals, weather }
    }

    /// One transaction: `act` sees all of it, and changes all or nothing.
    async fn write<T>(&self, what: &'static str, act: impl FnOnce(&mut Writing<'_>) -> Result<T>) -> Result<T> {
        let Fate { wait, fault } = self.weather.fate(what);
        pass(wait / 2).await;
        if fault == Some(Fault::Refused) {
            return Err(gone());
        }
        let answer = self.commit(act);
        pass(wait / 2).await;
        match fault {
            Some(Fault::Unanswered) => Err(gone()),
            Some(Fault::Refused) | None => answer,
        }
    }

    fn commit<T>(&self, act: impl FnOnce(&mut Writing<'_>) -> Result<T>) -> Result<T> {
        let mut kept = self.database.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tables = kept.clone();
        let mut writing = Writing::new(&mut tables, self.clock.now(), &self.policy);
        let answer = act(&mut writing);
        writing.roll_up();
        let signals = std::mem::take(&mut writing.signals);
        match answer {
            Ok(answer) => {
                *kept = tables;
                drop(kept);
                self.database.tell(&self.signals, &signals, &*self.weather);
                Ok(answer)
            }
            Err(error) => {
                let is_stale = matches!(&error, StoreError::Refused(refusal) if refusal.code == ErrorCode::StaleFence);
                kept.stale += u64::from(is_stale);
                Err(error)
            }
        }
    }

    async fn read<T>(&self, what: &'static str, look: impl FnOnce(&Tables, Timestamp) -> Result<T>) -> Result<T> {
        let Fate { wait, fault } = self.weather.fate(what);
        pass(wait).await;
        match fault {
            Some(Fault::Refused | Fault::Unanswered) => Err(gone()),
            None => look(&self.database.tables.lock().unwrap_or_else(PoisonError::into_inner), self.clock.now()),
        }
    }
}

async fn pass(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

fn gone() -> StoreError {
    StoreError::Gone("the connection was lost".into())
}

impl Store for Memory {
    fn signals(&self) -> &Signals {
        &self.signals
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    async fn close(&self) {}

    async fn begin_upload(&self, tenant: &TenantId, subject: &SubjectName) -> Result<Upload> {
        self.write("begin_upload", |w| w.begin_upload(tenant, subject)).await
    }

    async fn commit_upload(
        &self,
        upload: &Upload,
        consent: &Consent,
        photos: &[Photo],
        by: &Actor,
    ) -> Result<v1::Subject> {
        self.write("commit_upload", |w| w.commit_upload(upload, consent, photos, by)).await
    }

    async fn abandon_upload(&self, upload: &Upload) -> Result<()> {
        self.write("abandon_upload", |w| w.abandon_upload(upload)).await
    }

    async fn subject(&self, tenant: &TenantId, name: &SubjectName) -> Result<v1::Subject> {
        self.read("subject", |t, _| t.subject(tenant, name).cloned()).await
    }

    async fn subjects(&self, tenant: &TenantId) -> Result<Vec<v1::Subject>> {
        self.read("subjects", |t, _| Ok(t.subjects_of(tenant))).await
    }

    async fn forget(&self, tenant: &TenantId, subject: &SubjectName, cause: &Cause) -> Result<Forgotten> {
        self.write("forget", |w| w.forget(tenant, subject, cause)).await
    }

    async fn subjects_after(
        &self,
        last: Option<&(TenantId, SubjectName)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, SubjectName, Timestamp)>> {
        self.read("subjects_after", |t, _| Ok(t.subjects_after(last, limit))).await
    }

    async fn owed(&self, sweep: Sweep) -> Result<Vec<Erasure>> {
        self.write("owed", |w| Ok(w.owed(sweep))).await
    }

    async fn unknown(&self, erasure: &Erasure, keys: Vec<ObjectKey>) -> Result<Vec<ObjectKey>> {
        self.read("unknown", |t, _| Ok(t.unknown(erasure, keys))).await
    }

    async fn swept(&self, erasure: &Erasure) -> Result<()> {
        self.write("swept", |w| w.swept(erasure)).await
    }

    async fn submit(
        &self,
        tenant: &TenantId,
        submission: &Submission,
        request: [u8; 32],
        by: &Actor,
    ) -> Result<v1::Job> {
        self.write("submit", |w| w.submit(tenant, submission, request, by)).await
    }

    async fn job(&self, tenant: &TenantId, job: JobId) -> Result<v1::Job> {
        self.read("job", |t, _| t.job(tenant, job)).await
    }

    async fn jobs(&self, tenant: &TenantId, limit: u32) -> Result<Vec<v1::Job>> {
        self.read("jobs", |t, _| t.jobs_of(tenant, limit)).await
    }

    async fn cancel(&self, tenant: &TenantId, job: JobId, by: &Actor) -> Result<v1::Job> {
        self.write("cancel", |w| w.cancel(tenant, job, by)).await
    }

    async fn losses(&self, tenant: &TenantId, job: JobId, subject: &SubjectName) -> Result<v1::LossCurve> {
        self.read("losses", |t, _| t.losses(tenant, job, subject)).await
    }

    async fn object(&self, tenant: &TenantId, key: &ObjectKey) -> Result<ObjectRef> {
        self.read("object", |t, _| t.object(tenant, key)).await
    }

    async fn open_object(&self, tenant: &TenantId, key: &ObjectKey, reading: Reading, by: &Actor) -> Result<ObjectRef> {
        self.write("open_object", |w| w.open_object(tenant, key, reading, by)).await
    }

    async fn create_tenant(&self, tenant: &TenantId, terms: &Terms, by: &Actor) -> Result<Tenant> {
        self.write("create_tenant", |w| Ok(w.create_tenant(tenant, terms, by))).await
    }

    async fn update_tenant(&self, tenant: &TenantId, change: &TermsChange, by: &Actor) -> Result<Tenant> {
        self.write("update_tenant", |w| w.update_tenant(tenant, change, by)).await
    }

    async fn tenant(&self, tenant: &TenantId) -> Result<Tenant> {
        self.read("tenant", |t, _| t.tenant(tenant)).await
    }

    async fn tenants(&self) -> Result<Vec<Tenant>> {
        self.read("tenants", |t, _| Ok(t.tenants.values().cloned().collect())).await
    }

    async fn create_key(&self, key: &NewKey, by: &Actor) -> Result<Key> {
        self.write("create_key", |w| w.create_key(key, by)).await
    }

    async fn keys(&self, tenant: Option<&TenantId>) -> Result<Vec<Key>> {
        self.read("keys", |t, _| Ok(t.keys_of(tenant))).await
    }

    async fn live_key(&self, prefix: &str) -> Result<Option<Key>> {
        self.read("live_key", |t, now| Ok(t.live_key(prefix, now).cloned())).await
    }

    async fn rotate_key(&self, old: &str, prefix: &str, hash: [u8; 32], overlap: Duration, by: &Actor) -> Result<Key> {
        self.write("rotate_key", |w| w.rotate_key(old, prefix, hash, overlap, by)).await
    }

    async fn revoke_key(&self, prefix: &str, by: &Actor) -> Result<Key> {
        self.write("revoke_key", |w| w.revoke_key(prefix, by)).await
    }

    async fn end_session(&self, session: &SessionId, _ends: Timestamp) -> Result<()> {
        let end = |w: &mut Writing<'_>| {
            w.t.ended_sessions.insert(*session);
            Ok(())
        };
        self.write("end_session", end).await
    }

    async fn session_ended(&self, session: &SessionId) -> Result<bool> {
        self.read("session_ended", |t, _| Ok(t.ended_sessions.contains(session))).await
    }

    async fn audited(&self, sequence: u64, limit: u32) -> Result<Vec<Entry>> {
        let later = |t: &Tables| {
            t.audit.iter().filter(|entry| entry.sequence > sequence).take(limit as usize).cloned().collect()
        };
        self.read("audited", |t, _| Ok(later(t))).await
    }

    async fn take_turn(&self, work: &str, holder: Uuid, span: Duration) -> Result<bool> {
        self.write("take_turn", |w| Ok(w.take_turn(work, holder, span))).await
    }

    async fn garbage(&self, of: &TenantId, subject: &SubjectName, keys: Vec<ObjectKey>) -> Result<Vec<ObjectKey>> {
        self.write("garbage", |w| Ok(w.garbage(of, subject, keys))).await
    }

    async fn overdue(&self) -> Result<Vec<(TenantId, SubjectName)>> {
        self.read("overdue", |t, now| Ok(t.overdue(now))).await
    }

    async fn register(&self, registration: &Registration) -> Result<()> {
        self.write("register", |w| w.register(registration)).await
    }

    async fn claim(&self, ask: &LeaseAsk) -> Result<Vec<v1::Grant>> {
        self.write("claim", |w| w.claim(ask)).await
    }

    async fn roster(&self, of: Option<&TenantId>) -> Result<Roster> {
        self.read("roster", |t, _| Ok(t.roster(of))).await
    }

    async fn outputs(&self, lease: LeaseId) -> Result<Prefix> {
        self.read("outputs", |t, _| t.outputs(lease)).await
    }

    async fn renew(&self, renewals: &Renewals) -> Result<Vec<Verdict>> {
        self.write("renew", |w| w.renew(renewals)).await
    }

    async fn complete(&self, completion: &Completion) -> Result<()> {
        self.write("complete", |w| w.complete(completion)).await
    }

    async fn fail(&self, failure: &Failure) -> Result<()> {
        self.write("fail", |w| w.fail(failure)).await
    }

    async fn release(&self, release: &Release) -> Result<()> {
        self.write("release", |w| w.release(release)).await
    }

    async fn expire(&self) -> Result<()> {
        self.write("expire", |w| w.expire()).await
    }

    async fn census(&self) -> Result<Census> {
        self.read("census", |t, now| Ok(t.census(now))).await
    }
}

/// A database that is opened on a test's clock.
struct Opened(Arc<Database>);

impl Engine for Opened {
    type Store = Memory;

    async fn new() -> Self {
        Self(Arc::default())
    }

    async fn open(&self, clock: Arc<crate::clock::ManualClock>, policy: Policy) -> Memory {
        Memory::open(&self.0, clock, policy)
    }
}

contract!(Opened);
