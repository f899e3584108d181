//! What every engine must do, in clauses. [`contract!`] turns an [`Engine`] into its tests.

mod audit;
mod census;
mod garbage;
mod jobs;
mod leases;
mod previews;
mod roster;
mod sessions;
mod shares;
mod subjects;
pub(crate) mod tampering;
mod training;

pub(crate) use audit::*;
pub(crate) use census::*;
pub(crate) use garbage::*;
pub(crate) use jobs::*;
pub(crate) use leases::*;
pub(crate) use previews::*;
pub(crate) use roster::*;
pub(crate) use sessions::*;
pub(crate) use shares::*;
pub(crate) use subjects::*;
pub(crate) use training::*;

use std::sync::Arc;
use std::time::Duration;

use likeness_proto::v1::{self, SubjectState};
use likeness_proto::{
    Avatar, BaseModel, Capacity, Checkpoint, Completion, Consent, ErrorCode, Evaluation, Failure, Incarnation, JobId,
    LeaseAsk, LeaseId, ModelFacts, ObjectRef, Outcome, Photo, Prefix, Progress, Refusal, Registration, Release,
    Renewal, Renewals, Secret, Sha256, Snapshot, StopReason, SubjectName, TaskKind, TaskResult, TenantId, TrainReport,
    Verdict, avatar_name, checkpoint_name, photo_key, snapshot_name,
};

use super::{Cause, Limits, Policy, Roster, SWEEP_LIMIT, Store, StoreError, Sweep, Terms, TermsChange, UPLOAD_LIMIT};
use crate::audit::{Actor, Blind};
use crate::clock::ManualClock;

/// Opens stores on one place; opened again, a store remembers.
pub(crate) trait Engine: Sized {
    type Store: Store;
    fn new() -> impl Future<Output = Self>;
    fn open(&self, clock: Arc<ManualClock>, policy: Policy) -> impl Future<Output = Self::Store>;
}

const LEASE: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 2;

pub(crate) fn policy() -> Policy {
    Policy { lease: LEASE, attempts: ATTEMPTS, base_model: None, blind: Blind::new(&Secret::new("pepper").unwrap()) }
}

fn model(digit: char) -> BaseModel {
    let digest = format!("sha256:{}", digit.to_string().repeat(64)).parse().unwrap();
    BaseModel { digest, name: format!("model-{digit}"), facts: ModelFacts { native_size: 64, factor: 8 } }
}

fn name(text: &str) -> SubjectName {
    text.parse().unwrap()
}

fn code<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> ErrorCode {
    Refusal::from(answer.expect_err("the store must refuse")).code
}

/// A store with a fleet of one worker, which holds one model.
struct World<E: Engine> {
    engine: E,
    clock: Arc<ManualClock>,
    store: E::Store,
    tenant: TenantId,
    worker: Incarnation,
}

impl<E: Engine> World<E> {
    async fn new() -> Self {
        let (engine, clock) = (E::new().await, Arc::new(ManualClock::default()));
        let store = engine.open(clock.clone(), policy()).await;
        let world = Self { engine, clock, store, tenant: "acme".parse().unwrap(), worker: Incarnation::new() };
        world.register("node-1", world.worker, vec![model('a')]).await;
        world
    }

    async fn reopened(self) -> Self {
        let Self { engine, clock, store, tenant, worker } = self;
        drop(store);
        let store = engine.open(clock.clone(), policy()).await;
        Self { engine, clock, store, tenant, worker }
    }

    async fn register(&self, worker: &str, incarnation: Incarnation, models: Vec<BaseModel>) {
        let kinds = TaskKind::ALL.to_vec();
        let registration = Registration { worker: worker.into(), incarnation, kinds, models, software: String::new() };
        self.store.register(&registration).await.unwrap();
    }

    fn photo(&self, subject: &str) -> Photo {
        let sha256 = Sha256::of(subject.as_bytes());
        let object = ObjectRef { key: photo_key(&self.tenant, &name(subject), &sha256), sha256, size: 3 };
        Photo { file_name: "a.png".into(), object, width: 32, height: 64, caption: None }
    }

    async fn put(&self, subject: &str) -> v1::Subject {
        let upload = self.store.begin_upload(&self.tenant, &name(subject)).await.unwrap();
        self.store.commit_upload(&upload, &consent(), &[self.photo(subject)], &actor()).await.unwrap()
    }

    async fn try_submit(&self, key: &str, subjects: &[&str], trains: bool) -> Result<v1::Job, StoreError> {
        let wire = request(key, subjects, trains);
        self.store.submit(&self.tenant, &wire.try_into().unwrap(), [trains as u8; 32], &actor()).await
    }

    async fn submit(&self, subjects: &[&str]) -> v1::Job {
        self.try_submit("key", subjects, true).await.unwrap()
    }

    async fn claim(&self) -> Vec<v1::Grant> {
        self.claim_as(self.worker, TaskKind::ALL).await.unwrap()
    }

    async fn claim_one(&self) -> v1::Grant {
        let ask = ask(self.worker, TaskKind::ALL, 1);
        self.store.claim(&ask).await.unwrap().pop().expect("a task must be ready")
    }

    async fn claim_as(&self, worker: Incarnation, kinds: &[TaskKind]) -> Result<Vec<v1::Grant>, StoreError> {
        self.store.claim(&ask(worker, kinds, 100)).await
    }

    async fn complete(&self, grant: &v1::Grant) -> Result<(), StoreError> {
        self.store.complete(&self.completion(grant)).await
    }

    fn completion(&self, grant: &v1::Grant) -> Completion {
        let warnings = vec![];
        Completion { incarnation: self.worker, lease: lease(grant), result: result(grant), warnings }
    }

    async fn renew(&self, grant: &v1::Grant, progress: Option<Progress>) -> Verdict {
        let renewals = Renewals { incarnation: self.worker, renewals: vec![Renewal { lease: lease(grant), progress }] };
        self.store.renew(&renewals).await.unwrap()[0]
    }

    async fn fail(&self, grant: &v1::Grant, retry: bool) -> Result<(), StoreError> {
        let error = Refusal::new(ErrorCode::Diverged, "the loss became NaN");
        self.store.fail(&Failure { incarnation: self.worker, lease: lease(grant), error, retry }).await
    }

    /// Works until nothing is ready.
    async fn work(&self) {
        loop {
            let grants = self.claim().await;
            if grants.is_empty() {
                return;
            }
            for grant in &grants {
                self.complete(grant).await.unwrap();
            }
        }
    }

    async fn job(&self, job: &v1::Job) -> v1::Job {
        self.store.job(&self.tenant, job.id.parse().unwrap()).await.unwrap()
    }

    async fn lapse(&self) {
        self.clock.advance(LEASE);
        self.store.expire().await.unwrap();
    }
}

fn actor() -> Actor {
    Actor::key("lk01")
}

fn asked() -> Cause {
    Cause::Asked(actor())
}

fn consent() -> Consent {
    Consent { attested_by: "Ada".into(), capacity: Capacity::Self_, statement: "that is me".into() }
}

/// Two prompts of three seeds: six avatars, two render tasks.
fn request(key: &str, subjects: &[&str], trains: bool) -> v1::SubmitJobRequest {
    let prompt = |text: &str| v1::Prompt { text: text.into(), seeds: vec![1, 2, 3] };
    let subject = |name: &&str| v1::JobSubject { name: (*name).into(), init: "person".into() };
    v1::SubmitJobRequest {
        idempotency_key: key.into(),
        subjects: subjects.iter().map(subject).collect(),
        train: trains.then(v1::TrainSpec::default),
        render: Some(v1::RenderSpec {
            prompts: vec![prompt("{subject} at sea"), prompt("{subject} in snow")],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn ask(incarnation: Incarnation, kinds: &[TaskKind], capacity: usize) -> LeaseAsk {
    LeaseAsk { incarnation, kinds: kinds.to_vec(), capacity, wait: Duration::ZERO }
}

fn lease(grant: &v1::Grant) -> LeaseId {
    LeaseId::decode(&grant.task_id, grant.fence).unwrap()
}

/// What a worker would write under the grant's prefix.
fn output(grant: &v1::Grant, file: &str) -> ObjectRef {
    let prefix: Prefix = grant.output_prefix.parse().unwrap();
    ObjectRef::of(prefix.key(file).unwrap(), file.as_bytes())
}

fn result(grant: &v1::Grant) -> TaskResult {
    match grant.work.as_ref().unwrap() {
        v1::grant::Work::Train(_) => TaskResult::Train {
            embedding: output(grant, "embedding.safetensors"),
            outcome: Outcome {
                steps: 75,
                stop_reason: StopReason::Converged,
                evaluation_loss_first: 0.2,
                evaluation_loss_best: 0.1,
                best_step: 50,
                seconds: 4.0,
            },
            last: None,
        },
        v1::grant::Work::Render(work) => {
            let avatar = |shot: &v1::Shot| Avatar {
                object: output(grant, &avatar_name(shot.index)),
                prompt: shot.prompt.clone(),
                seed: shot.seed,
                index: shot.index,
            };
            TaskResult::Render { avatars: work.shots.iter().map(avatar).collect(), seconds: 1.5 }
        }
        v1::grant::Work::Assemble(_) => TaskResult::Assemble { contact_sheet: output(grant, "contact-sheet.png") },
        v1::grant::Work::Preview(_) => TaskResult::Preview { picture: output(grant, &avatar_name(0)) },
    }
}

fn report(step: u32, losses: &[f32]) -> TrainReport {
    TrainReport {
        step,
        steps_per_second: 5.0,
        losses: losses.to_vec(),
        evaluations: vec![],
        checkpoint: None,
        preview: None,
    }
}

fn checkpointed(grant: &v1::Grant, step: u32) -> Option<Progress> {
    let object = output(grant, &checkpoint_name(step));
    Some(Progress::Train(TrainReport { checkpoint: Some(Checkpoint { object, step }), ..report(step, &[]) }))
}

fn previewed(grant: &v1::Grant, step: u32) -> Option<Progress> {
    let embedding = output(grant, &snapshot_name(step));
    Some(Progress::Train(TrainReport { preview: Some(Snapshot { embedding, step }), ..report(step, &[]) }))
}

/// A worker, and a job of many subjects whose trainings are ready.
pub(crate) async fn fill<S: Store>(store: &S, worker: Incarnation, subjects: usize) -> JobId {
    let tenant: TenantId = "acme".parse().unwrap();
    let (kinds, models) = (TaskKind::ALL.to_vec(), vec![model('a')]);
    let registration =
        Registration { worker: "node-1".into(), incarnation: worker, kinds, models, software: String::new() };
    store.register(&registration).await.unwrap();
    let names: Vec<_> = (0..subjects).map(|number| format!("subject-{number}")).collect();
    for subject in &names {
        let upload = store.begin_upload(&tenant, &name(subject)).await.unwrap();
        let sha256 = Sha256::of(subject.as_bytes());
        let object = ObjectRef { key: photo_key(&tenant, &name(subject), &sha256), sha256, size: 3 };
        let photo = Photo { file_name: "a.png".into(), object, width: 32, height: 64, caption: None };
        store.commit_upload(&upload, &consent(), &[photo], &actor()).await.unwrap();
    }
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let wire = request("many", &names, true);
    store.submit(&tenant, &wire.try_into().unwrap(), [1; 32], &actor()).await.unwrap().id.parse().unwrap()
}

/// Claims until nothing is ready.
pub(crate) async fn claim_all<S: Store>(store: &S, worker: Incarnation, capacity: usize) -> Vec<v1::Grant> {
    let mut all = Vec::new();
    loop {
        let grants = store.claim(&ask(worker, TaskKind::ALL, capacity)).await.unwrap();
        if grants.is_empty() {
            return all;
        }
        all.extend(grants);
    }
}

/// Claims, renews and completes until nothing is ready.
pub(crate) async fn work_all<S: Store>(store: &S, worker: Incarnation) {
    loop {
        let grants = store.claim(&ask(worker, TaskKind::ALL, 2)).await.unwrap();
        if grants.is_empty() {
            return;
        }
        for grant in &grants {
            let renewals = vec![Renewal { lease: lease(grant), progress: None }];
            assert_eq!(store.renew(&Renewals { incarnation: worker, renewals }).await.unwrap(), [Verdict::Continue]);
            let (lease, result) = (lease(grant), result(grant));
            let completion = Completion { incarnation: worker, lease, result, warnings: vec![] };
            store.complete(&completion).await.unwrap();
        }
    }
}

/// One test for each clause of the contract.
macro_rules! contract {
    (@each $engine:ty, $why:tt; $($clause:ident),+ $(,)?) => {
        $(contract! { @one $engine, $why, $clause })+
    };
    (@one $engine:ty, [$($why:literal)?], $clause:ident) => {
        #[tokio::test]
        $(#[ignore = $why])?
        async fn $clause() {
            crate::store::contract::$clause::<$engine>().await;
        }
    };
    ($engine:ty $(, ignore = $why:literal)?) => {
        contract! {
            @each $engine, [$($why)?];
            a_job_goes_from_photos_to_a_contact_sheet,
            a_repeated_request_gets_the_job_accepted_then,
            a_job_whose_model_nobody_holds_is_refused,
            a_job_names_subjects_that_are_there,
            new_avatars_need_a_finished_embedding_of_the_same_model,
            a_lapsed_lease_goes_to_the_next_worker_under_a_higher_fence,
            a_result_counts_once_and_its_repetition_is_answered_the_same,
            a_subject_that_loses_its_workers_fails_alone,
            a_failure_is_tried_again_only_where_that_may_help,
            a_drain_counts_no_try,
            a_successor_begins_at_the_last_committed_checkpoint,
            a_training_that_gets_further_is_given_new_tries,
            the_loss_curve_has_no_holes_and_follows_the_successor,
            vectors_are_drawn_once_for_each_step_as_the_first_avatar,
            previews_are_drawn_where_nothing_else_is_ready,
            the_newest_preview_takes_the_place_of_those_that_wait,
            a_preview_fails_nothing_and_nothing_waits_for_it,
            a_training_has_no_more_previews_than_its_spec_says,
            a_preview_of_a_cancelled_or_forgotten_subject_is_not_drawn,
            vectors_are_kept_until_they_are_drawn_and_the_preview_as_long_as_its_subject,
            avatars_under_way_are_counted,
            avatars_must_be_those_asked_for,
            a_cancelled_job_keeps_what_is_finished_and_stays_cancelled,
            a_finished_job_cannot_be_cancelled,
            a_tenant_sees_nothing_of_another,
            photos_put_again_do_not_touch_jobs_that_go_on,
            a_forgotten_subject_leaves_nothing_and_touches_nobody_else,
            a_finished_job_stays_as_it_ended_when_its_subject_is_forgotten,
            a_subject_is_put_again_only_after_its_erasure_and_then_kept,
            an_upload_overtaken_by_forgetting_is_refused,
            photos_are_not_swept_under_an_upload_that_goes_on,
            an_upload_that_never_ends_is_taken_back,
            everything_survives_a_restart,
            a_restarted_worker_gets_its_tasks_back_at_once,
            registering_again_changes_nothing_for_the_same_process,
            workers_get_only_what_they_can_do,
            workers_that_claim_at_once_never_get_the_same_task,
            changes_are_told_and_revisions_grow,
            jobs_are_listed_newest_first,
            outputs_of_lost_leases_and_ended_tasks_are_garbage_and_nothing_else,
            photos_that_nobody_committed_are_garbage_unless_an_upload_goes_on,
            whatever_happens_garbage_goes_and_nothing_else,
            a_tenant_that_keeps_nothing_for_long_has_old_subjects_forgotten,
            a_turn_is_one_holders_until_it_ends,
            a_sweep_is_one_coordinators_at_a_time,
            whatever_people_do_is_logged_in_its_order_and_names_nobody,
            what_did_not_happen_is_not_logged,
            those_who_act_at_once_are_logged_one_after_the_other,
            what_was_put_after_a_tombstone_is_not_forgotten_by_it,
            tenants_are_served_in_turn_whoever_came_first,
            a_heavier_tenant_is_served_more_often,
            one_claim_of_many_tasks_is_dealt_among_tenants,
            a_job_of_higher_priority_overtakes_its_tenants_own_and_nobody_elses,
            a_tenant_has_no_more_tasks_running_than_it_may,
            claims_at_once_do_not_exceed_a_tenants_limit,
            a_tenant_held_back_by_its_limit_has_no_claim_on_what_others_got,
            a_tenant_queues_no_more_jobs_than_it_may,
            a_tenant_stores_no_more_than_it_may,
            what_waits_is_counted_and_so_is_who_works,
            a_task_waits_from_when_it_became_ready,
            every_task_of_a_job_knows_whose_child_it_is,
            the_roster_shows_who_works_on_what_and_to_a_tenant_its_own,
            a_session_that_was_ended_stays_so_and_others_go_on,
        }
    };
}
pub(crate) use contract;
