//! What is remembered, and how a transaction changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use likeness_proto::v1;
use likeness_proto::{
    Incarnation, JobId, ModelDigest, ObjectKey, ObjectRef, Registration, Sha256, SubjectName, TaskId, TenantId,
};
use uuid::Uuid;

use super::Result;
use super::shares::{Queue, Turn};
use crate::audit::{Action, Actor, Chain, Entry, Point};
use crate::clock::Timestamp;
use crate::lifecycle::{Course, Effect, JobState, SubjectState, TaskState};
use crate::store::{Erasure, Key, Policy, SessionId, Signal, Tenant, refusals};

/// A subject of a tenant.
pub(super) type Owner = (TenantId, SubjectName);

/// A subject of a job of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) tenant: TenantId,
    pub(super) job: JobId,
    pub(super) subject: SubjectName,
}

impl Place {
    pub(super) fn owner(&self) -> Owner {
        (self.tenant.clone(), self.subject.clone())
    }
}

#[derive(Clone, Debug)]
pub(super) struct JobRow {
    pub(super) key: String,
    pub(super) request: [u8; 32],
    pub(super) state: JobState,
    pub(super) revision: u64,
    pub(super) submitted_at: Timestamp,
    pub(super) ended_at: Option<Timestamp>,
    /// Without what the other fields and tables know.
    pub(super) record: Arc<v1::Job>,
}

/// A subject's way through a job.
#[derive(Clone, Debug)]
pub(super) struct CourseRow {
    pub(super) position: usize,
    pub(super) forgotten: bool,
    pub(super) course: Course,
    /// Beside those of the course, in its order.
    pub(super) tasks: Vec<TaskRow>,
    pub(super) progress: v1::SubjectProgress,
    pub(super) avatars: BTreeMap<u32, v1::Avatar>,
    pub(super) losses: Vec<f32>,
    pub(super) evaluations: BTreeMap<u32, f32>,
}

impl CourseRow {
    pub(super) fn index(&self, task: TaskId) -> Option<usize> {
        self.course.tasks.iter().position(|candidate| candidate.id == task)
    }
}

#[derive(Clone, Debug)]
pub(super) struct TaskRow {
    /// What was known when the job was planned.
    pub(super) work: Arc<v1::Grant>,
    pub(super) model: ModelDigest,
    pub(super) queued_at: Timestamp,
    /// When it last became ready.
    pub(super) ready_at: Timestamp,
    pub(super) shots: u32,
    pub(super) cost: u32,
    pub(super) priority: i32,
    pub(super) drawn: u32,
    pub(super) checkpoint: Option<v1::Checkpoint>,
}

#[derive(Clone, Debug)]
pub(super) struct Owed {
    pub(super) erasure: Erasure,
    pub(super) due: Timestamp,
    pub(super) held: Timestamp,
}

#[derive(Clone, Default)]
pub(super) struct Tables {
    serial: u64,
    pub(super) subjects: BTreeMap<Owner, Arc<v1::Subject>>,
    pub(super) objects: BTreeMap<(TenantId, ObjectKey), (SubjectName, ObjectRef)>,
    pub(super) uploads: BTreeMap<String, (Owner, Timestamp)>,
    pub(super) ended_sessions: BTreeSet<SessionId>,
    pub(super) erasures: BTreeMap<String, Owed>,
    pub(super) jobs: BTreeMap<(TenantId, JobId), JobRow>,
    pub(super) courses: BTreeMap<Place, Arc<CourseRow>>,
    pub(super) tasks: BTreeMap<TaskId, Place>,
    pub(super) workers: BTreeMap<String, Arc<Registration>>,
    /// When they last asked for work.
    pub(super) seen: BTreeMap<Incarnation, Timestamp>,
    pub(super) tenants: BTreeMap<TenantId, Tenant>,
    pub(super) api_keys: BTreeMap<String, Key>,
    pub(super) turns: BTreeMap<String, (Uuid, Timestamp)>,
    pub(super) queues: BTreeMap<Queue, Turn>,
    /// Results that were recorded, by task.
    pub(super) published: BTreeMap<TaskId, u32>,
    pub(super) audit: Vec<Entry>,
    /// Reports that came under a fence of the past.
    pub(super) stale: u64,
}

/// What invariants look at beside what people see.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// Results that were recorded, by task.
    pub(crate) published: BTreeMap<TaskId, u32>,
    /// Objects that people may download.
    pub(crate) visible: BTreeMap<ObjectKey, ObjectRef>,
    /// Reports that came under a fence of the past.
    pub(crate) stale: u64,
    /// The audit log.
    pub(crate) audit: Vec<Entry>,
}

impl Tables {
    pub(super) fn ledger(&self) -> Ledger {
        let visible = self.objects.iter().map(|((_, key), (_, object))| (key.clone(), object.clone())).collect();
        Ledger { published: self.published.clone(), visible, stale: self.stale, audit: self.audit.clone() }
    }

    /// An id that no other has, later than those before; the same in every run.
    pub(super) fn uuid(&mut self) -> Uuid {
        self.serial += 1;
        Uuid::from_u64_pair(0x7000, (0b10 << 62) | self.serial)
    }

    pub(super) fn new_id<T>(&mut self) -> T
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Debug,
    {
        self.uuid().to_string().parse().expect("it is a UUID")
    }

    pub(super) fn subject(&self, tenant: &TenantId, name: &SubjectName) -> Result<&v1::Subject> {
        let found = self.subjects.get(&(tenant.clone(), name.clone()));
        Ok(found.ok_or_else(|| refusals::unknown_subject(name))?)
    }

    /// The courses of a subject, in whatever job.
    pub(super) fn courses_of<'a>(&'a self, owner: &'a Owner) -> impl Iterator<Item = (&'a Place, &'a CourseRow)> {
        let of = move |(place, _): &(&Place, &Arc<CourseRow>)| place.tenant == owner.0 && place.subject == owner.1;
        self.courses.iter().filter(of).map(|(place, row)| (place, &**row))
    }

    /// The subjects of a job, in its order.
    pub(super) fn courses_in(&self, tenant: &TenantId, job: JobId) -> Vec<(&Place, &CourseRow)> {
        let of = |(place, _): &(&Place, &Arc<CourseRow>)| place.job == job && place.tenant == *tenant;
        let mut rows: Vec<_> = self.courses.iter().filter(of).map(|(place, row)| (place, &**row)).collect();
        rows.sort_by_key(|(_, row)| row.position);
        rows
    }
}

/// A transaction that writes, and whom to tell once it is committed.
pub(super) struct Writing<'a> {
    pub(super) t: &'a mut Tables,
    pub(super) now: Timestamp,
    pub(super) policy: &'a Policy,
    pub(super) signals: Vec<Signal>,
    /// Jobs whose subjects it changed.
    touched: BTreeSet<(TenantId, JobId)>,
}

impl<'a> Writing<'a> {
    pub(super) fn new(t: &'a mut Tables, now: Timestamp, policy: &'a Policy) -> Self {
        Self { t, now, policy, signals: Vec::new(), touched: BTreeSet::new() }
    }

    pub(super) fn tell(&mut self, signal: Signal) {
        if !self.signals.contains(&signal) {
            self.signals.push(signal);
        }
    }

    /// Appends to the audit log.
    pub(super) fn note(&mut self, by: &Actor, tenant: Option<&TenantId>, action: Action, target: Sha256) -> Point {
        let last = self.t.audit.last();
        let mut entry = Entry {
            sequence: self.t.audit.len() as u64 + 1,
            at: self.now.millis(),
            actor: by.to_string(),
            tenant: tenant.map(ToString::to_string).unwrap_or_default(),
            action: action.number(),
            target,
            previous: last.map_or(Chain::NOTHING, |last| last.hash),
            hash: Chain::NOTHING,
        };
        entry.hash = entry.digest();
        let point = Point { sequence: entry.sequence, hash: entry.hash };
        self.t.audit.push(entry);
        point
    }

    pub(super) fn touch(&mut self, place: &Place) {
        self.touched.insert((place.tenant.clone(), place.job));
    }

    pub(super) fn row(&mut self, place: &Place) -> &mut CourseRow {
        Arc::make_mut(self.t.courses.get_mut(place).expect("its tasks name it"))
    }

    /// Does what effects ask for; the subject and its job changed.
    pub(super) fn settle(&mut self, place: &Place, effects: &[Effect]) {
        self.heed(place, effects);
        let row = self.row(place);
        row.progress.state = row.course.state().encode();
        self.touch(place);
    }

    /// Does what effects ask for; nobody watches.
    pub(super) fn heed(&mut self, place: &Place, effects: &[Effect]) {
        let now = self.now;
        for effect in effects {
            match effect {
                // Avatars under way count only as long as somebody draws them.
                Effect::Save(id) => {
                    let row = self.row(place);
                    let index = row.index(*id).expect("an effect names a task of the course");
                    row.tasks[index].ready_at =
                        if row.course.tasks[index].state == TaskState::Ready { now } else { row.tasks[index].ready_at };
                    let leased = matches!(row.course.tasks[index].state, TaskState::Leased(_));
                    row.tasks[index].drawn = if leased { row.tasks[index].drawn } else { 0 };
                    if row.course.tasks[index].state == TaskState::Ready {
                        self.enqueue(place, *id);
                    }
                    if !leased {
                        self.freed(&place.tenant);
                    }
                }
                Effect::Wake(_) => self.tell(Signal::Ready),
                Effect::Publish(id) => *self.t.published.entry(*id).or_default() += 1,
                Effect::Ended(_) => {}
            }
        }
    }

    /// Brings jobs up to date whose subjects changed.
    pub(super) fn roll_up(&mut self) {
        for (tenant, job) in std::mem::take(&mut self.touched) {
            let states = self.t.courses_in(&tenant, job);
            let states: Vec<_> =
                states.iter().filter_map(|(_, row)| SubjectState::decode(row.progress.state)).collect();
            let (state, now) = (JobState::of(&states), self.now);
            if let Some(row) = self.t.jobs.get_mut(&(tenant, job)) {
                row.revision += 1;
                row.state = if row.ended_at.is_some() { row.state } else { state };
                row.ended_at = row.ended_at.or(state.ended().then_some(now));
            }
            self.tell(Signal::Job(job));
        }
    }
}
