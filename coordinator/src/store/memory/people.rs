//! What people ask for: subjects, jobs, erasure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use likeness_proto::v1;
use likeness_proto::{
    BaseModel, Consent, ErrorCode, JobId, ObjectKey, ObjectKind, ObjectRef, Photo, Refusal, SPEC_VERSION, SubjectName,
    Submission, TenantId, kind_of, lease_of, token_of,
};

use super::Result;
use super::tables::{CourseRow, JobRow, Owed, Owner, Place, Tables, TaskRow, Writing};
use crate::audit::{Action, Actor};
use crate::clock::Timestamp;
use crate::lifecycle::{Course, JobState, Planned, Source, SubjectState, Task, TaskState, plan, small_photos};
use crate::models::choose;
use crate::store::{
    Cause, Erasure, Forgotten, Reading, SWEEP_LIMIT, Signal, Sweep, Tombstone, UPLOAD_LIMIT, Upload, refusals,
};

/// How long after forgetting the last sweep comes.
const LAST_SWEEP: Duration = Duration::from_secs(60 * 60);

impl Tables {
    pub(super) fn subjects_of(&self, tenant: &TenantId) -> Vec<v1::Subject> {
        let of = self.subjects.iter().filter(|((owner, _), _)| owner == tenant);
        of.map(|(_, subject)| (**subject).clone()).collect()
    }

    pub(super) fn job(&self, tenant: &TenantId, id: JobId) -> Result<v1::Job> {
        let row = self.jobs.get(&(tenant.clone(), id)).ok_or_else(|| refusals::unknown_job(id))?;
        let whole = |(_, row): (&Place, &CourseRow)| {
            let mut progress = row.progress.clone();
            progress.avatars = row.avatars.values().cloned().collect();
            let drawn: u32 = row.tasks.iter().map(|task| task.drawn).sum();
            if let Some(rendering) = &mut progress.rendering {
                rendering.avatars_done = progress.avatars.len() as u32 + drawn;
            }
            progress
        };
        Ok(v1::Job {
            id: id.to_string(),
            state: row.state.encode(),
            revision: row.revision,
            submitted_at: Some(row.submitted_at.into()),
            ended_at: row.ended_at.map(Into::into),
            subjects: self.courses_in(tenant, id).into_iter().map(whole).collect(),
            ..(*row.record).clone()
        })
    }

    pub(super) fn jobs_of(&self, tenant: &TenantId, limit: u32) -> Result<Vec<v1::Job>> {
        let mut ids: Vec<_> = self.jobs.iter().filter(|((owner, _), _)| owner == tenant).collect();
        ids.sort_by_key(|((_, id), row)| std::cmp::Reverse((row.submitted_at, *id)));
        ids.into_iter().take(limit as usize).map(|((_, id), _)| self.job(tenant, *id)).collect()
    }

    pub(super) fn losses(&self, tenant: &TenantId, job: JobId, subject: &SubjectName) -> Result<v1::LossCurve> {
        if !self.jobs.contains_key(&(tenant.clone(), job)) {
            return Err(refusals::unknown_job(job).into());
        }
        let place = Place { tenant: tenant.clone(), job, subject: subject.clone() };
        let row = self.courses.get(&place).ok_or_else(|| refusals::unknown_subject(subject))?;
        let evaluations = row.evaluations.iter().map(|(step, loss)| v1::Evaluation { step: *step, loss: *loss });
        Ok(v1::LossCurve { first_step: 1, losses: row.losses.clone(), evaluations: evaluations.collect() })
    }

    pub(super) fn object(&self, tenant: &TenantId, key: &ObjectKey) -> Result<ObjectRef> {
        let found = self.objects.get(&(tenant.clone(), key.clone()));
        let unknown = || Refusal::new(ErrorCode::UnknownObject, format!("there is no object {key}"));
        Ok(found.ok_or_else(unknown)?.1.clone())
    }

    pub(super) fn unknown(&self, erasure: &Erasure, keys: Vec<ObjectKey>) -> Vec<ObjectKey> {
        let owner = (erasure.tenant.clone(), erasure.subject.clone());
        let tasks: BTreeSet<_> =
            self.courses_of(&owner).flat_map(|(_, row)| row.course.tasks.iter().map(|task| task.id)).collect();
        let is_unknown = |key: &ObjectKey| {
            let published = self.objects.contains_key(&(owner.0.clone(), key.clone()));
            let is_output = lease_of(key).is_some_and(|lease| tasks.contains(&lease.task));
            !published && if kind_of(key) == ObjectKind::Photo { erasure.locked } else { !is_output }
        };
        keys.into_iter().filter(is_unknown).collect()
    }

    pub(super) fn subjects_after(&self, last: Option<&Owner>, limit: u32) -> Vec<(TenantId, SubjectName, Timestamp)> {
        let later = self.subjects.iter().filter(|(owner, _)| last.is_none_or(|last| *owner > last));
        later
            .take(limit as usize)
            .map(|((tenant, name), subject)| (tenant.clone(), name.clone(), stored_at(subject)))
            .collect()
    }

    pub(super) fn has_upload(&self, owner: &Owner) -> bool {
        self.uploads.values().any(|(of, _)| of == owner)
    }

    fn is_locked(&self, owner: &Owner) -> bool {
        self.erasures.values().any(|owed| owed.erasure.locked && owed.of() == *owner)
    }

    fn held_models(&self) -> Vec<BaseModel> {
        let models = self.workers.values().flat_map(|worker| &worker.models);
        let by_digest: BTreeMap<_, _> = models.map(|model| (model.digest.clone(), model.clone())).collect();
        by_digest.into_values().collect()
    }
}

impl Owed {
    pub(super) fn of(&self) -> Owner {
        (self.erasure.tenant.clone(), self.erasure.subject.clone())
    }
}

impl Writing<'_> {
    pub(super) fn begin_upload(&mut self, tenant: &TenantId, subject: &SubjectName) -> Result<Upload> {
        let owner = (tenant.clone(), subject.clone());
        if self.t.is_locked(&owner) {
            return Err(refusals::being_erased(subject).into());
        }
        let id = self.t.uuid().to_string();
        self.t.uploads.insert(id.clone(), (owner, self.now + UPLOAD_LIMIT));
        Ok(Upload { tenant: tenant.clone(), subject: subject.clone(), id })
    }

    pub(super) fn commit_upload(
        &mut self,
        upload: &Upload,
        consent: &Consent,
        photos: &[Photo],
        by: &Actor,
    ) -> Result<v1::Subject> {
        if self.t.uploads.remove(&upload.id).is_none() {
            return Err(refusals::forgotten(&upload.subject).into());
        }
        for photo in photos {
            self.commit_object(&upload.tenant, &upload.subject, &photo.object);
        }
        let owner = (upload.tenant.clone(), upload.subject.clone());
        let subject = v1::Subject {
            name: upload.subject.to_string(),
            photos: photos.iter().cloned().map(v1::Photo::from).collect(),
            consent: Some(consent.clone().into()),
            stored_at: Some(self.now.into()),
            embedding: self.t.subjects.get(&owner).and_then(|before| before.embedding.clone()),
        };
        self.t.subjects.insert(owner, Arc::new(subject.clone()));
        self.check_stored(&upload.tenant)?;
        let target = self.policy.blind.subject(&upload.tenant, &upload.subject);
        self.note(by, Some(&upload.tenant), Action::SubjectPut, target);
        Ok(subject)
    }

    pub(super) fn abandon_upload(&mut self, upload: &Upload) -> Result<()> {
        if let Some((owner, _)) = self.t.uploads.remove(&upload.id) {
            self.owe(&owner, self.now, None);
        }
        Ok(())
    }

    pub(super) fn open_object(
        &mut self,
        tenant: &TenantId,
        key: &ObjectKey,
        reading: Reading,
        by: &Actor,
    ) -> Result<ObjectRef> {
        let object = self.t.object(tenant, key)?;
        let action = match reading {
            Reading::Here => Action::Downloaded(kind_of(key)),
            Reading::ByLink => Action::LinkSigned(kind_of(key)),
        };
        self.note(by, Some(tenant), action, self.policy.blind.object(key));
        Ok(object)
    }

    pub(super) fn commit_object(&mut self, tenant: &TenantId, subject: &SubjectName, object: &ObjectRef) {
        let key = (tenant.clone(), object.key.clone());
        self.t.objects.entry(key).or_insert_with(|| (subject.clone(), object.clone()));
    }

    pub(super) fn forget(&mut self, tenant: &TenantId, subject: &SubjectName, cause: &Cause) -> Result<Forgotten> {
        let owner = (tenant.clone(), subject.clone());
        let live = self.t.courses_of(&owner).filter(|(_, row)| !row.forgotten);
        let places: Vec<_> = live.map(|(place, _)| place.clone()).collect();
        let stored = self.t.subjects.get(&owner);
        let is_given = match cause {
            Cause::Asked(_) => {
                !places.is_empty() || stored.is_some() || self.t.has_upload(&owner) || self.t.is_locked(&owner)
            }
            Cause::Retention => self.t.overdue(self.now).contains(&owner),
            Cause::Replay(forgotten) => stored.is_some_and(|subject| stored_at(subject) <= *forgotten),
        };
        if !is_given {
            return Err(refusals::unknown_subject(subject).into());
        }
        for place in &places {
            self.leave_job(place);
        }
        self.t.subjects.remove(&owner);
        self.t.objects.retain(|(of, _), (name, _)| (of, &*name) != (tenant, subject));
        self.t.uploads.retain(|_, (of, _)| *of != owner);
        self.t.erasures.retain(|_, owed| owed.of() != owner);
        for later in [self.policy.lease * 2, LAST_SWEEP] {
            self.owe(&owner, self.now + later, None);
        }
        let (action, by) = match cause {
            Cause::Asked(actor) => (Action::SubjectForgotten, actor.clone()),
            Cause::Retention => (Action::RetentionErased, Actor::coordinator()),
            Cause::Replay(_) => (Action::ErasureReplayed, Actor::coordinator()),
        };
        let entry = self.note(&by, Some(tenant), action, self.policy.blind.subject(tenant, subject));
        let erasure = self.owe(&owner, self.now, Some(Tombstone { at: self.now, entry }));
        let jobs = places.iter().map(|place| place.job.to_string()).collect();
        Ok(Forgotten { at: self.now, entry, jobs, erasure })
    }

    /// Takes the subject out of a job: its work stops, and of its results only the end is left.
    fn leave_job(&mut self, place: &Place) {
        let row = self.row(place);
        let state = SubjectState::decode(row.progress.state).filter(|state| state.ended());
        let gone = std::mem::take(&mut row.course.tasks);
        row.progress = v1::SubjectProgress {
            subject: place.subject.to_string(),
            state: state.unwrap_or(SubjectState::Failed).encode(),
            error: Some(refusals::forgotten(&place.subject).into()),
            ..Default::default()
        };
        row.forgotten = true;
        row.tasks.clear();
        row.avatars.clear();
        row.losses.clear();
        row.evaluations.clear();
        gone.iter().for_each(|task| drop(self.t.tasks.remove(&task.id)));
        self.touch(place);
    }

    pub(super) fn owe(&mut self, owner: &Owner, due: Timestamp, tombstone: Option<Tombstone>) -> Erasure {
        let (id, locked) = (self.t.uuid().to_string(), tombstone.is_some());
        let erasure = Erasure { tenant: owner.0.clone(), subject: owner.1.clone(), id: id.clone(), locked, tombstone };
        // Whoever forgets sweeps at once, and lets nobody in meanwhile.
        let held = if locked { self.now + SWEEP_LIMIT } else { self.now };
        self.t.erasures.insert(id, Owed { erasure: erasure.clone(), due, held });
        erasure
    }

    pub(super) fn owed(&mut self, sweep: Sweep) -> Vec<Erasure> {
        let (now, uploads) = (self.now, self.t.uploads.clone());
        let mut mine = Vec::new();
        for owed in self.t.erasures.values_mut().filter(|owed| sweep == Sweep::All || owed.due <= now) {
            if owed.held <= now {
                let owner = owed.of();
                owed.erasure.locked |= !uploads.values().any(|(of, _)| *of == owner);
                owed.held = now + SWEEP_LIMIT;
                mine.push(owed.erasure.clone());
            }
        }
        mine
    }

    pub(super) fn swept(&mut self, erasure: &Erasure) -> Result<()> {
        let now = self.now;
        // A sweep that could not touch photos, or came early, is owed still.
        self.t.erasures.retain(|id, owed| *id != erasure.id || owed.due > now || !erasure.locked);
        if let Some(owed) = self.t.erasures.get_mut(&erasure.id) {
            owed.erasure.locked = false;
            owed.held = Timestamp::from_millis(0);
        }
        Ok(())
    }

    pub(super) fn submit(
        &mut self,
        tenant: &TenantId,
        submission: &Submission,
        request: [u8; 32],
        by: &Actor,
    ) -> Result<v1::Job> {
        let key = submission.idempotency_key.as_str();
        let before = self.t.jobs.iter().find(|((owner, _), row)| owner == tenant && row.key == key);
        match before.map(|((_, id), row)| (*id, row.request)) {
            Some((id, stored)) if stored == request => return self.t.job(tenant, id),
            Some((id, _)) => {
                let message = format!("idempotency key `{key}` was used for another request (job {id}); use a new key");
                return Err(Refusal::new(ErrorCode::IdempotencyConflict, message).into());
            }
            None => {}
        }
        self.check_jobs(tenant)?;
        let held = self.t.held_models();
        let model = choose(&held, submission.base_model.as_ref().or(self.policy.base_model.as_ref()))?.clone();
        let specs = submission.resolve(&model.facts)?;
        let job = self.t.new_id();
        let record = v1::Job {
            train: specs.train.clone().map(Into::into),
            render: Some(specs.render.clone().into()),
            base_model: model.digest.to_string(),
            spec_version: SPEC_VERSION,
            priority: submission.priority,
            ..Default::default()
        };
        for (position, asked) in submission.subjects.iter().enumerate() {
            let place = Place { tenant: tenant.clone(), job, subject: asked.name.clone() };
            self.begin_course(&place, position, &asked.init, submission, &specs, &model)?;
        }
        let row = JobRow {
            key: key.to_owned(),
            request,
            state: JobState::Queued,
            revision: 1,
            submitted_at: self.now,
            ended_at: None,
            record: Arc::new(record),
        };
        self.t.jobs.insert((tenant.clone(), job), row);
        self.tell(Signal::Ready);
        self.note(by, Some(tenant), Action::JobSubmitted, self.policy.blind.job(job));
        self.t.job(tenant, job)
    }

    fn begin_course(
        &mut self,
        place: &Place,
        position: usize,
        init: &str,
        submission: &Submission,
        specs: &likeness_proto::Specs,
        model: &BaseModel,
    ) -> Result<()> {
        let stored = self.t.subject(&place.tenant, &place.subject)?.clone();
        let embedding = match &specs.train {
            Some(_) => None,
            None => Some(finished_embedding(&stored, model)?),
        };
        let token = token_of(&place.subject);
        let planned = plan(specs, Source { photos: &stored.photos, init, token: &token });
        let training = specs.train.as_ref();
        let progress = v1::SubjectProgress {
            subject: stored.name.clone(),
            state: SubjectState::Queued.encode(),
            token: embedding.as_ref().map_or(token.clone(), |embedding| embedding.token.clone()),
            training: training.map(|spec| v1::TrainProgress { max_steps: spec.max_steps, ..Default::default() }),
            rendering: Some(v1::RenderProgress { avatars_total: specs.render.avatars() as u32, ..Default::default() }),
            warnings: small_photos(specs, &stored.name, &stored.photos),
            embedding,
            init: init.to_owned(),
            ..Default::default()
        };
        let (mut tasks, mut rows) = (Vec::new(), Vec::new());
        for Planned { kind, ready, shots, cost, work } in planned {
            let id = self.t.new_id();
            let state = if ready { TaskState::Ready } else { TaskState::Waiting };
            tasks.push(Task { id, kind, state, grants: 0, strikes: 0 });
            let work = v1::Grant {
                job_id: place.job.to_string(),
                subject: place.subject.to_string(),
                base_model: model.digest.to_string(),
                traceparent: submission.traceparent.clone().unwrap_or_default(),
                work: Some(work),
                ..Default::default()
            };
            let (model, queued_at) = (model.digest.clone(), self.now);
            rows.push(TaskRow {
                work: Arc::new(work),
                model,
                queued_at,
                ready_at: queued_at,
                shots,
                cost,
                priority: submission.priority,
                drawn: 0,
                checkpoint: None,
            });
            self.t.tasks.insert(id, place.clone());
        }
        let row = CourseRow {
            position,
            forgotten: false,
            course: Course { tasks, attempts: self.policy.attempts },
            tasks: rows,
            progress,
            avatars: BTreeMap::new(),
            losses: Vec::new(),
            evaluations: BTreeMap::new(),
        };
        let ready: Vec<_> =
            row.course.tasks.iter().filter(|task| task.state == TaskState::Ready).map(|task| task.id).collect();
        self.t.courses.insert(place.clone(), Arc::new(row));
        ready.into_iter().for_each(|task| self.enqueue(place, task));
        Ok(())
    }

    pub(super) fn cancel(&mut self, tenant: &TenantId, job: JobId, by: &Actor) -> Result<v1::Job> {
        let before = self.t.jobs.get(&(tenant.clone(), job)).ok_or_else(|| refusals::unknown_job(job))?;
        if before.state.ended() {
            return Err(Refusal::new(ErrorCode::JobFinished, format!("job {job} has ended")).into());
        }
        let places: Vec<_> = self.t.courses_in(tenant, job).iter().map(|(place, _)| (*place).clone()).collect();
        let now = self.now;
        for place in places {
            let effects = self.row(&place).course.cancel(now);
            if !effects.is_empty() {
                self.settle(&place, &effects);
            }
        }
        self.roll_up();
        self.note(by, Some(tenant), Action::JobCancelled, self.policy.blind.job(job));
        self.t.job(tenant, job)
    }
}

/// When its photos came last.
pub(super) fn stored_at(subject: &v1::Subject) -> Timestamp {
    let at = subject.stored_at.unwrap_or_default();
    Timestamp::from_millis(at.seconds * 1000 + i64::from(at.nanos) / 1_000_000)
}

fn finished_embedding(subject: &v1::Subject, model: &BaseModel) -> Result<v1::Embedding> {
    let name = &subject.name;
    let missing = || Refusal::new(ErrorCode::NoEmbedding, format!("subject {name} has no finished embedding"));
    let embedding = subject.embedding.clone().ok_or_else(missing)?;
    if embedding.base_model == model.digest.as_str() {
        return Ok(embedding);
    }
    let message = format!("the embedding of subject {name} was learned on base model {}", embedding.base_model);
    Err(Refusal::new(ErrorCode::ModelMismatch, message).into())
}
