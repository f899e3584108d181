//! What workers ask for and tell.

use std::collections::BTreeSet;
use std::sync::Arc;

use likeness_proto::v1;
use likeness_proto::{
    Avatar, Completion, ErrorCode, Failure, Incarnation, LeaseAsk, LeaseId, ObjectRef, Outcome, Prefix, Progress,
    Refusal, Registration, Release, RenderSpec, Renewal, Renewals, Snapshot, TaskId, TaskKind, TaskResult, TrainReport,
    Verdict, output_prefix,
};

use super::Result;
use super::tables::{CourseRow, Place, Tables, TaskRow, Writing};
use crate::lifecycle::{Effect, Event, Lease, Refused, Report, TaskState, in_order, preview};
use crate::store::refusals;

impl Tables {
    /// Where a lease's task belongs, and which of its course it is.
    fn find(&self, lease: LeaseId) -> Result<(Place, usize)> {
        let place = self.tasks.get(&lease.task).ok_or_else(|| refusals::stale(lease))?;
        let index = self.courses.get(place).and_then(|row| row.index(lease.task));
        Ok((place.clone(), index.ok_or_else(|| refusals::stale(lease))?))
    }

    pub(super) fn outputs(&self, lease: LeaseId) -> Result<Prefix> {
        let (place, index) = self.find(lease)?;
        let kind = self.courses[&place].course.tasks[index].kind;
        Ok(output_prefix(&place.tenant, &place.subject, kind, lease))
    }

    fn leased(&self, which: impl Fn(Lease) -> bool) -> Vec<(TaskId, Place)> {
        let mut found = Vec::new();
        for (place, row) in &self.courses {
            let held =
                row.course.tasks.iter().filter(|task| matches!(task.state, TaskState::Leased(lease) if which(lease)));
            found.extend(held.map(|task| (task.id, place.clone())));
        }
        found
    }
}

impl Writing<'_> {
    pub(super) fn register(&mut self, registration: &Registration) -> Result<()> {
        self.t.seen.insert(registration.incarnation, self.now);
        let before = self.t.workers.insert(registration.worker.clone(), Arc::new(registration.clone()));
        if let Some(gone) = before.map(|before| before.incarnation).filter(|gone| *gone != registration.incarnation) {
            let held = self.t.leased(|lease| lease.holder == gone);
            self.take_back(held, Event::Abandoned(gone));
        }
        Ok(())
    }

    pub(super) fn claim(&mut self, ask: &LeaseAsk) -> Result<Vec<v1::Grant>> {
        let worker = self.t.workers.values().find(|worker| worker.incarnation == ask.incarnation).cloned();
        let Some(worker) = worker else {
            let message = format!("worker incarnation {} is not registered, or another took its name", ask.incarnation);
            return Err(Refusal::new(ErrorCode::UnknownWorker, message).into());
        };
        self.t.seen.insert(ask.incarnation, self.now);
        let mut grants = Vec::new();
        for kind in in_order(&ask.kinds) {
            for model in &worker.models {
                let dealt = self.t.deal(kind, &model.digest, ask.capacity - grants.len());
                grants.extend(dealt.into_iter().map(|(task, place)| self.grant(ask.incarnation, task, &place)));
            }
        }
        Ok(grants)
    }

    fn grant(&mut self, holder: Incarnation, id: TaskId, place: &Place) -> v1::Grant {
        let (now, lease) = (self.now, Lease { holder, until: self.now + self.policy.lease });
        let row = self.row(place);
        let effects = row.course.apply(now, id, Event::Granted(lease)).expect("it is ready");
        let index = row.index(id).expect("it was found there");
        let grant = filled(row, index, place);
        if let (Some(v1::grant::Work::Train(train)), Some(training)) = (&grant.work, &mut row.progress.training) {
            training.step = train.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step);
        }
        self.settle(place, &effects);
        v1::Grant { lease_ms: self.policy.lease.as_millis() as u32, ..grant }
    }

    pub(super) fn renew(&mut self, renewals: &Renewals) -> Result<Vec<Verdict>> {
        Ok(renewals.renewals.iter().map(|renewal| self.renew_one(renewals.incarnation, renewal)).collect())
    }

    fn renew_one(&mut self, holder: Incarnation, renewal: &Renewal) -> Verdict {
        let (lease, now, until) = (renewal.lease, self.now, self.now + self.policy.lease);
        let Ok((place, index)) = self.t.find(lease) else { return Verdict::Lost };
        let row = self.row(&place);
        let known_step = row.progress.training.as_ref().map_or(0, |training| training.checkpoint_step);
        let checkpoint = report(renewal).and_then(|report| report.checkpoint.as_ref());
        let further = checkpoint.is_some_and(|checkpoint| checkpoint.step > known_step);
        let event = Event::Renewed { by: Report { holder, fence: lease.fence }, until, further };
        let mut effects = match row.course.apply(now, lease.task, event) {
            Ok(effects) => effects,
            Err(Refused::Cancelled) => return Verdict::Cancelled,
            Err(Refused::Stale | Refused::Untimely) => return Verdict::Lost,
        };
        let before = (row.progress.clone(), row.tasks[index].drawn);
        match &renewal.progress {
            None => {}
            Some(Progress::Train(report)) => trained(row, index, report),
            Some(Progress::Render { avatars_done }) => {
                row.tasks[index].drawn = (*avatars_done).min(row.tasks[index].shots)
            }
        }
        if let Some(snapshot) = report(renewal).and_then(|report| report.preview.as_ref()) {
            effects.extend(self.queue_preview(&place, index, snapshot));
        }
        let row = self.row(&place);
        if before == (row.progress.clone(), row.tasks[index].drawn) {
            self.heed(&place, &effects);
        } else {
            self.settle(&place, &effects);
        }
        Verdict::Continue
    }

    /// Queues a preview of what training number `train` of the course reports, unless there is one of that step or a later one.
    fn queue_preview(&mut self, place: &Place, train: usize, snapshot: &Snapshot) -> Vec<Effect> {
        let (now, id) = (self.now, self.t.new_id());
        let spec =
            self.t.jobs[&(place.tenant.clone(), place.job)].record.render.clone().expect("a job draws something");
        let planned = preview(&RenderSpec::try_from(spec).expect("it was resolved"), snapshot.step);
        let row = self.row(place);
        let most = match &row.tasks[train].work.work {
            Some(v1::grant::Work::Train(work)) => work.spec.as_ref().and_then(|spec| spec.previews).unwrap_or(0),
            _other => 0,
        };
        let known_step = row.progress.training.as_ref().map_or(0, |training| training.preview_step);
        if snapshot.step <= known_step || !row.course.wants_preview(most) {
            return Vec::new();
        }
        row.progress.training.get_or_insert_default().preview_step = snapshot.step;
        let like = row.tasks[train].clone();
        row.tasks.push(TaskRow {
            work: Arc::new(v1::Grant { work: Some(planned.work), ..(*like.work).clone() }),
            queued_at: now,
            ready_at: now,
            shots: planned.shots,
            cost: planned.cost,
            drawn: 0,
            checkpoint: Some(v1::Checkpoint { object: Some(snapshot.embedding.clone().into()), step: snapshot.step }),
            ..like
        });
        let effects = row.course.preview(now, id);
        self.t.tasks.insert(id, place.clone());
        self.enqueue(place, id);
        effects
    }

    pub(super) fn complete(&mut self, completion: &Completion) -> Result<()> {
        let Completion { incarnation, lease, result, warnings } = completion;
        let (place, index) = self.t.find(*lease)?;
        let effects =
            self.apply(&place, *lease, Event::Finished(Report { holder: *incarnation, fence: lease.fence }))?;
        if !effects.contains(&Effect::Publish(lease.task)) {
            return Ok(()); // repeated
        }
        let subject = place.subject.to_string();
        let warnings = warnings.iter().map(|warning| v1::Warning { subject: subject.clone(), ..warning.clone() });
        self.row(&place).progress.warnings.extend(warnings);
        self.publish(&place, index, lease.task, result)?;
        self.settle(&place, &effects);
        Ok(())
    }

    fn publish(&mut self, place: &Place, index: usize, task: TaskId, result: &TaskResult) -> Result<()> {
        let row = self.row(place);
        match (row.course.tasks[index].kind, result) {
            (TaskKind::Train, TaskResult::Train { embedding, outcome, last }) => {
                if let Some(report) = last {
                    trained(row, index, report);
                }
                row.progress.trained = Some(encode(outcome));
                let learned = learned(row, index, place, embedding);
                row.progress.embedding = Some(learned.clone());
                self.commit_object(&place.tenant, &place.subject, embedding);
                if let Some(subject) = self.t.subjects.get_mut(&place.owner()) {
                    Arc::make_mut(subject).embedding = Some(learned);
                }
            }
            (TaskKind::Render, TaskResult::Render { avatars, seconds }) => {
                check_shots(row, index, task, avatars)?;
                row.progress.rendering.get_or_insert_default().seconds += seconds;
                for avatar in avatars {
                    self.commit_object(&place.tenant, &place.subject, &avatar.object);
                    let before = self.row(place).avatars.insert(avatar.index, avatar.clone().into());
                    assert!(before.is_none(), "avatar {} of {place:?} was drawn before", avatar.index);
                }
            }
            (TaskKind::Assemble, TaskResult::Assemble { contact_sheet }) => {
                row.progress.contact_sheet = Some(contact_sheet.clone().into());
                self.commit_object(&place.tenant, &place.subject, contact_sheet);
            }
            (TaskKind::Preview, TaskResult::Preview { picture }) => {
                let Some(v1::grant::Work::Preview(work)) = &row.tasks[index].work.work else {
                    panic!("task {task} is a preview")
                };
                let shown = v1::Preview { step: work.step, object: Some(picture.clone().into()) };
                row.progress.previews.push(shown);
                row.progress.previews.sort_by_key(|preview| preview.step);
                self.commit_object(&place.tenant, &place.subject, picture);
            }
            (_, _other) => {
                return Err(Refusal::invalid(format!("the result is not of task {task}'s kind")).into());
            }
        }
        Ok(())
    }

    pub(super) fn fail(&mut self, failure: &Failure) -> Result<()> {
        let Failure { incarnation, lease, error, retry } = failure;
        let (place, _) = self.t.find(*lease)?;
        let by = Report { holder: *incarnation, fence: lease.fence };
        let effects = self.apply(&place, *lease, Event::Failed { by, retry: *retry })?;
        if !effects.is_empty() {
            self.failed(&place, lease.task, error, &effects);
        }
        Ok(())
    }

    pub(super) fn release(&mut self, release: &Release) -> Result<()> {
        let (place, _) = self.t.find(release.lease)?;
        let by = Report { holder: release.incarnation, fence: release.lease.fence };
        let effects = self.apply(&place, release.lease, Event::Released(by))?;
        self.settle(&place, &effects);
        Ok(())
    }

    fn apply(&mut self, place: &Place, lease: LeaseId, event: Event) -> Result<Vec<Effect>> {
        let now = self.now;
        let effects = self.row(place).course.apply(now, lease.task, event);
        Ok(effects.map_err(|refused| refusals::refused(refused, lease))?)
    }

    /// Records a try that failed, and with it the subject if that was the last one.
    fn failed(&mut self, place: &Place, id: TaskId, error: &Refusal, effects: &[Effect]) {
        let row = self.row(place);
        let task = &row.course.tasks[row.index(id).expect("an effect names a task of the course")];
        match task.state {
            TaskState::Failed | TaskState::Dead if task.kind == TaskKind::Preview => {}
            TaskState::Failed => row.progress.error = Some(error.clone().into()),
            TaskState::Dead => {
                let message = format!("{} task gave up after {} tries: {}", task.kind, task.strikes, error.message);
                row.progress.error = Some(Refusal::new(error.code, message).into());
            }
            TaskState::Waiting | TaskState::Ready | TaskState::Leased(_) | TaskState::Done | TaskState::Cancelled => {}
        }
        self.settle(place, effects);
    }

    pub(super) fn expire(&mut self) -> Result<()> {
        let now = self.now;
        let lapsed = self.t.leased(|lease| lease.until <= now);
        self.take_back(lapsed, Event::Lapsed);
        let late: Vec<_> = self.t.uploads.extract_if(.., |_, (_, deadline)| *deadline <= now).collect();
        for (_, (owner, _)) in late {
            self.owe(&owner, now, None);
        }
        self.tidy_queues();
        Ok(())
    }

    fn take_back(&mut self, tasks: Vec<(TaskId, Place)>, event: Event) {
        let lost = Refusal::new(ErrorCode::WorkerLost, "its worker stopped renewing the lease");
        for (task, place) in tasks {
            let now = self.now;
            // An earlier task of the list may have ended this one's subject.
            if let Ok(effects) = self.row(&place).course.apply(now, task, event) {
                self.failed(&place, task, &lost, &effects);
            }
        }
    }
}

/// The grant with all that earlier tasks and tries have told.
fn filled(row: &CourseRow, index: usize, place: &Place) -> v1::Grant {
    use v1::grant::Work;
    let (task, beside) = (&row.course.tasks[index], &row.tasks[index]);
    let lease = LeaseId { task: task.id, fence: task.fence().expect("it was granted just now") };
    let mut grant = (*beside.work).clone();
    match grant.work.as_mut() {
        Some(Work::Train(train)) => train.checkpoint = beside.checkpoint.clone(),
        Some(Work::Render(render)) => {
            render.embedding = row.progress.embedding.as_ref().and_then(|embedding| embedding.object.clone());
        }
        Some(Work::Assemble(assemble)) => assemble.avatars = row.avatars.values().cloned().collect(),
        Some(Work::Preview(preview)) => {
            let begins = beside.checkpoint.as_ref().and_then(|begins| begins.object.clone());
            preview.render.as_mut().expect("it was planned").embedding = begins;
        }
        None => {}
    }
    v1::Grant {
        task_id: task.id.to_string(),
        fence: lease.fence.get(),
        attempt: task.attempt(),
        output_prefix: output_prefix(&place.tenant, &place.subject, task.kind, lease).to_string(),
        ..grant
    }
}

fn report(renewal: &Renewal) -> Option<&TrainReport> {
    match &renewal.progress {
        Some(Progress::Train(report)) => Some(report),
        Some(Progress::Render { .. }) | None => None,
    }
}

/// Records what a training reports: curve, numbers, checkpoint.
fn trained(row: &mut CourseRow, index: usize, report: &TrainReport) {
    append(row, report);
    let training = row.progress.training.get_or_insert_default();
    training.step = report.step;
    training.steps_per_second = report.steps_per_second;
    if !report.losses.is_empty() {
        training.loss = report.losses.iter().sum::<f32>() / report.losses.len() as f32;
    }
    if let Some(last) = report.evaluations.last() {
        training.evaluation_loss = last.loss;
    }
    if let Some(checkpoint) = &report.checkpoint {
        training.checkpoint_step = checkpoint.step;
        row.tasks[index].checkpoint = Some(checkpoint.clone().into());
    }
}

/// The curve ends with the report's step; nothing is added behind a hole.
fn append(row: &mut CourseRow, report: &TrainReport) {
    let end = report.step as usize;
    let start = end - report.losses.len();
    if start < end {
        if row.losses.len() < start {
            return;
        }
        row.losses.truncate(start);
        row.losses.extend(&report.losses);
        row.evaluations.retain(|step, _| *step as usize <= end);
    }
    row.evaluations.extend(report.evaluations.iter().map(|evaluation| (evaluation.step, evaluation.loss)));
}

fn encode(outcome: &Outcome) -> v1::TrainOutcome {
    v1::TrainOutcome {
        steps: outcome.steps,
        stop_reason: outcome.stop_reason.encode(),
        evaluation_loss_first: outcome.evaluation_loss_first,
        evaluation_loss_best: outcome.evaluation_loss_best,
        best_step: outcome.best_step,
        seconds: outcome.seconds,
    }
}

fn learned(row: &CourseRow, index: usize, place: &Place, object: &ObjectRef) -> v1::Embedding {
    let work = &row.tasks[index].work;
    let spec = match &work.work {
        Some(v1::grant::Work::Train(train)) => train.spec.as_ref().and_then(|spec| spec.method.as_ref()),
        _other => None,
    };
    let vectors = spec.map_or(0, |v1::train_spec::Method::TextualInversion(spec)| spec.vectors.unwrap_or_default());
    v1::Embedding {
        object: Some(object.clone().into()),
        token: row.progress.token.clone(),
        base_model: work.base_model.clone(),
        job_id: place.job.to_string(),
        vectors,
    }
}

/// The avatars must be those asked for: none missing, none else.
fn check_shots(row: &CourseRow, index: usize, task: TaskId, avatars: &[Avatar]) -> Result<()> {
    let asked: BTreeSet<_> = match &row.tasks[index].work.work {
        Some(v1::grant::Work::Render(render)) => {
            render.shots.iter().map(|shot| (shot.index, shot.prompt.clone(), shot.seed)).collect()
        }
        _other => BTreeSet::new(),
    };
    let given: BTreeSet<_> = avatars.iter().map(|avatar| (avatar.index, avatar.prompt.clone(), avatar.seed)).collect();
    if asked == given && given.len() == avatars.len() {
        return Ok(());
    }
    Err(Refusal::invalid(format!("task {task} brings avatars that are not those asked for, each once")).into())
}
