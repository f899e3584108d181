//! What every engine must do. [`contract!`] turns an [`Engine`] into its tests.

use std::sync::Arc;
use std::time::Duration;

use likeness_proto::v1::{self, SubjectState};
use likeness_proto::{
    Avatar, BaseModel, Capacity, Checkpoint, Completion, Consent, ErrorCode, Evaluation, Failure, Incarnation,
    LeaseAsk, LeaseId, ModelFacts, ObjectRef, Outcome, Photo, Prefix, Progress, Refusal, Registration, Release,
    Renewal, Renewals, Sha256, StopReason, SubjectName, TaskKind, TaskResult, TenantId, TrainReport, Verdict,
    avatar_name, checkpoint_name, photo_key,
};

use super::{Policy, Store, StoreError, Sweep, UPLOAD_LIMIT};
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
    Policy { lease: LEASE, attempts: ATTEMPTS, base_model: None }
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
        self.store.commit_upload(&upload, &consent(), &[self.photo(subject)]).await.unwrap()
    }

    async fn try_submit(&self, key: &str, subjects: &[&str], trains: bool) -> Result<v1::Job, StoreError> {
        let wire = request(key, subjects, trains);
        self.store.submit(&self.tenant, &wire.try_into().unwrap(), [trains as u8; 32]).await
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
        base_model: String::new(),
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
    }
}

fn report(step: u32, losses: &[f32]) -> TrainReport {
    TrainReport { step, steps_per_second: 5.0, losses: losses.to_vec(), evaluations: vec![], checkpoint: None }
}

fn checkpointed(grant: &v1::Grant, step: u32) -> Option<Progress> {
    let object = output(grant, &checkpoint_name(step));
    Some(Progress::Train(TrainReport { checkpoint: Some(Checkpoint { object, step }), ..report(step, &[]) }))
}

pub(crate) async fn a_job_goes_from_photos_to_a_contact_sheet<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    assert_eq!((job.state(), job.revision), (v1::JobState::Queued, 1));

    let grants = world.claim().await;
    let [train] = grants.as_slice() else { panic!("only the training is ready: {grants:?}") };
    let Some(v1::grant::Work::Train(work)) = &train.work else { panic!("{train:?}") };
    assert_eq!((work.init.as_str(), work.token.as_str(), work.photos.len()), ("person", "<ada>", 1));
    assert!(likeness_proto::Grant::try_from(train.clone()).is_ok(), "a worker can read it");
    assert_eq!(world.job(&job).await.state(), v1::JobState::Running);
    world.complete(train).await.unwrap();

    let renders = world.claim().await;
    assert_eq!(renders.len(), 2);
    for render in &renders {
        let Some(v1::grant::Work::Render(work)) = &render.work else { panic!("{render:?}") };
        assert_eq!(work.embedding, Some(output(train, "embedding.safetensors").into()));
        world.complete(render).await.unwrap();
    }
    let sheet = world.claim_one().await;
    let Some(v1::grant::Work::Assemble(work)) = &sheet.work else { panic!("{sheet:?}") };
    assert_eq!(work.avatars.iter().map(|avatar| avatar.index).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(world.job(&job).await.subjects[0].state(), SubjectState::Assembling);
    world.complete(&sheet).await.unwrap();

    let job = world.job(&job).await;
    let ada = &job.subjects[0];
    assert_eq!((job.state(), ada.state()), (v1::JobState::Succeeded, SubjectState::Succeeded));
    assert!(job.ended_at.is_some());
    assert_eq!(ada.rendering.unwrap().seconds, 3.0);
    assert_eq!((ada.rendering.unwrap().avatars_done, ada.avatars.len()), (6, 6));
    assert_eq!(ada.trained.unwrap().best_step, 50);
    assert_eq!(ada.warnings[0].code(), v1::WarningCode::SmallPhoto);
    let embedding = world.store.subject(&world.tenant, &name("ada")).await.unwrap().embedding.unwrap();
    assert_eq!((embedding.job_id, embedding.vectors), (job.id, 1));
    for object in [ada.contact_sheet.clone(), ada.avatars[5].object.clone(), embedding.object] {
        let object = ObjectRef::try_from(object.unwrap()).unwrap();
        assert_eq!(world.store.object(&world.tenant, &object.key).await.unwrap(), object);
    }
}

pub(crate) async fn a_repeated_request_gets_the_job_accepted_then<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let first = world.try_submit("key", &["ada"], true).await.unwrap();
    assert_eq!(world.try_submit("key", &["ada"], true).await.unwrap().id, first.id);
    assert_eq!(code(world.try_submit("key", &["ada"], false).await), ErrorCode::IdempotencyConflict);
    assert_eq!(world.store.jobs(&world.tenant, 10).await.unwrap().len(), 1);
}

pub(crate) async fn a_job_whose_model_nobody_holds_is_refused<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let mut wire = request("key", &["ada"], true);
    wire.base_model = model('c').digest.to_string();
    let refused = world.store.submit(&world.tenant, &wire.try_into().unwrap(), [0; 32]).await;
    assert_eq!(code(refused), ErrorCode::ModelUnavailable);
    let world = world.reopened().await;
    world.submit(&["ada"]).await; // what the fleet holds is not forgotten
}

pub(crate) async fn a_job_names_subjects_that_are_there<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    assert_eq!(code(world.try_submit("key", &["ada", "bob"], true).await), ErrorCode::UnknownSubject);
    assert!(world.store.jobs(&world.tenant, 10).await.unwrap().is_empty(), "nothing of it is left");
    assert!(world.claim().await.is_empty());
}

pub(crate) async fn new_avatars_need_a_finished_embedding_of_the_same_model<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    assert_eq!(code(world.try_submit("early", &["ada"], false).await), ErrorCode::NoEmbedding);
    world.submit(&["ada"]).await;
    world.work().await;

    let again = world.try_submit("again", &["ada"], false).await.unwrap();
    assert_eq!(world.claim_as(world.worker, &[TaskKind::Train]).await.unwrap().len(), 0);
    world.work().await;
    let again = world.job(&again).await;
    assert_eq!((again.state(), again.train), (v1::JobState::Succeeded, None));

    world.register("node-1", world.worker, vec![model('b')]).await;
    assert_eq!(code(world.try_submit("other", &["ada"], false).await), ErrorCode::ModelMismatch);
}

pub(crate) async fn a_lapsed_lease_goes_to_the_next_worker_under_a_higher_fence<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    let old = world.claim_one().await;
    world.clock.advance(LEASE - Duration::from_millis(1));
    world.store.expire().await.unwrap();
    assert!(world.claim().await.is_empty(), "the lease lives still");
    assert_eq!(world.renew(&old, None).await, Verdict::Continue);
    world.lapse().await;

    let new = world.claim_one().await;
    assert_eq!((new.task_id.as_str(), new.fence, new.attempt), (old.task_id.as_str(), old.fence + 1, 2));
    assert_ne!(new.output_prefix, old.output_prefix);
    assert_eq!(world.renew(&old, None).await, Verdict::Lost);
    assert_eq!(code(world.complete(&old).await), ErrorCode::StaleFence);
    assert_eq!(code(world.fail(&old, false).await), ErrorCode::StaleFence);
    let release = Release { incarnation: world.worker, lease: lease(&old) };
    assert_eq!(code(world.store.release(&release).await), ErrorCode::StaleFence);
    world.complete(&new).await.unwrap();
}

pub(crate) async fn a_result_counts_once_and_its_repetition_is_answered_the_same<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    let train = world.claim_one().await;
    world.complete(&train).await.unwrap();
    let revision = world.job(&job).await.revision;
    world.complete(&train).await.unwrap();
    assert_eq!(world.job(&job).await.revision, revision, "nothing changed");
}

pub(crate) async fn a_subject_that_loses_its_workers_fails_alone<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.put("bob").await;
    let job = world.submit(&["ada", "bob"]).await;
    for _ in 0..ATTEMPTS {
        let ada = world.claim_one().await;
        assert_eq!(ada.subject, "ada");
        world.lapse().await;
    }
    let ada = &world.job(&job).await.subjects[0];
    assert_eq!((ada.state(), ada.error.as_ref().unwrap().code()), (SubjectState::Failed, ErrorCode::WorkerLost));
    world.work().await;
    let job = world.job(&job).await;
    assert_eq!((job.state(), job.subjects[1].state()), (v1::JobState::PartlyFailed, SubjectState::Succeeded));
}

pub(crate) async fn a_failure_is_tried_again_only_where_that_may_help<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    world.fail(&world.claim_one().await, true).await.unwrap();
    let second = world.claim_one().await;
    assert_eq!(second.attempt, 2);
    world.fail(&second, false).await.unwrap();
    world.fail(&second, false).await.unwrap(); // repeated
    assert!(world.claim().await.is_empty());
    let job = world.job(&job).await;
    let error = job.subjects[0].error.as_ref().unwrap();
    assert_eq!((job.state(), error.code()), (v1::JobState::Failed, ErrorCode::Diverged));
    assert!(error.message.contains("NaN"), "{error:?}");
}

pub(crate) async fn a_drain_counts_no_try<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    for _ in 0..2 * ATTEMPTS {
        let grant = world.claim_one().await;
        assert_eq!(grant.attempt, 1);
        world.store.release(&Release { incarnation: world.worker, lease: lease(&grant) }).await.unwrap();
    }
}

pub(crate) async fn a_successor_begins_at_the_last_committed_checkpoint<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    let first = world.claim_one().await;
    assert_eq!(world.renew(&first, checkpointed(&first, 50)).await, Verdict::Continue);
    let progress = Some(Progress::Train(report(60, &[0.5; 10])));
    assert_eq!(world.renew(&first, progress).await, Verdict::Continue);
    let training = world.job(&job).await.subjects[0].training.unwrap();
    assert_eq!((training.step, training.checkpoint_step, training.max_steps), (60, 50, 400));

    world.lapse().await;
    assert_eq!(world.renew(&first, checkpointed(&first, 100)).await, Verdict::Lost);
    let second = world.claim_one().await;
    let Some(v1::grant::Work::Train(work)) = &second.work else { panic!("{second:?}") };
    let checkpoint = work.checkpoint.as_ref().unwrap();
    assert_eq!(checkpoint.step, 50);
    assert_eq!(checkpoint.object, Some(output(&first, &checkpoint_name(50)).into()), "a stale one is never seen");
    assert_eq!(world.job(&job).await.subjects[0].training.unwrap().step, 50);
}

pub(crate) async fn a_training_that_gets_further_is_given_new_tries<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    for step in 1..=2 * ATTEMPTS {
        let grant = world.claim_one().await;
        world.renew(&grant, checkpointed(&grant, step)).await;
        world.lapse().await;
    }
    assert_eq!(world.claim_one().await.attempt, 2);
}

pub(crate) async fn the_loss_curve_has_no_holes_and_follows_the_successor<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    let grant = world.claim_one().await;
    let first: Vec<f32> = (1..=300).map(|step| step as f32).collect();
    let evaluations = [1, 250].map(|step| Evaluation { step, loss: 0.25 }).to_vec();
    world.renew(&grant, Some(Progress::Train(TrainReport { evaluations, ..report(300, &first) }))).await;
    world.renew(&grant, Some(Progress::Train(report(600, &first)))).await;
    // A successor that begins at step 200.
    world.renew(&grant, Some(Progress::Train(report(210, &[7.0; 10])))).await;

    let id = job.id.parse().unwrap();
    let curve = world.store.losses(&world.tenant, id, &name("ada")).await.unwrap();
    let want: Vec<f32> = (1..=200).map(|step| step as f32).chain([7.0; 10]).collect();
    assert_eq!((curve.first_step, curve.losses), (1, want));
    assert_eq!(curve.evaluations, [v1::Evaluation { step: 1, loss: 0.25 }]);
    assert_eq!(code(world.store.losses(&world.tenant, id, &name("bob")).await), ErrorCode::UnknownSubject);
}

pub(crate) async fn avatars_under_way_are_counted<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    world.complete(&world.claim_one().await).await.unwrap();
    let render = world.claim_one().await;
    let done = async || world.job(&job).await.subjects[0].rendering.unwrap().avatars_done;
    world.renew(&render, Some(Progress::Render { avatars_done: 3 })).await;
    assert_eq!(done().await, 3);
    world.lapse().await;
    assert_eq!(done().await, 0, "they are gone with the lease");
}

pub(crate) async fn avatars_must_be_those_asked_for<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    world.complete(&world.claim_one().await).await.unwrap();
    let render = world.claim_one().await;
    let mut completion = world.completion(&render);
    let TaskResult::Render { avatars, .. } = &mut completion.result else { panic!("{completion:?}") };
    avatars.pop();
    assert_eq!(code(world.store.complete(&completion).await), ErrorCode::InvalidArgument);
    completion.result = TaskResult::Assemble { contact_sheet: output(&render, "contact-sheet.png") };
    assert_eq!(code(world.store.complete(&completion).await), ErrorCode::InvalidArgument);
    assert_eq!(world.job(&job).await.subjects[0].avatars, [], "all or nothing");
    world.complete(&render).await.unwrap();
}

pub(crate) async fn a_cancelled_job_keeps_what_is_finished_and_stays_cancelled<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    world.complete(&world.claim_one().await).await.unwrap();
    let running = world.claim_one().await;
    let id = job.id.parse().unwrap();
    let cancelled = world.store.cancel(&world.tenant, id).await.unwrap();
    assert_eq!(cancelled.state(), v1::JobState::Cancelled);
    assert!(cancelled.subjects[0].embedding.is_some());

    assert_eq!(world.renew(&running, None).await, Verdict::Cancelled);
    assert_eq!(code(world.complete(&running).await), ErrorCode::StaleFence);
    assert!(world.claim().await.is_empty());
    assert_eq!(code(world.store.cancel(&world.tenant, id).await), ErrorCode::JobFinished);
    assert_eq!(world.job(&job).await, cancelled);
}

pub(crate) async fn a_finished_job_cannot_be_cancelled<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    world.work().await;
    assert_eq!(code(world.store.cancel(&world.tenant, job.id.parse().unwrap()).await), ErrorCode::JobFinished);
}

pub(crate) async fn a_tenant_sees_nothing_of_another<E: Engine>() {
    let world = World::<E>::new().await;
    let ada = world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    let (other, id) = ("other".parse().unwrap(), job.id.parse().unwrap());
    let key = ada.photos[0].object.as_ref().unwrap().key.parse().unwrap();
    assert_eq!(code(world.store.subject(&other, &name("ada")).await), ErrorCode::UnknownSubject);
    assert_eq!(code(world.store.job(&other, id).await), ErrorCode::UnknownJob);
    assert_eq!(code(world.store.cancel(&other, id).await), ErrorCode::UnknownJob);
    assert_eq!(code(world.store.losses(&other, id, &name("ada")).await), ErrorCode::UnknownJob);
    assert_eq!(code(world.store.object(&other, &key).await), ErrorCode::UnknownObject);
    assert_eq!(code(world.store.forget(&other, &name("ada")).await), ErrorCode::UnknownSubject);
    assert!(world.store.subjects(&other).await.unwrap().is_empty());
    assert!(world.store.jobs(&other, 10).await.unwrap().is_empty());
    let same_key = request("key", &["ada"], true).try_into().unwrap();
    assert_eq!(code(world.store.submit(&other, &same_key, [9; 32]).await), ErrorCode::UnknownSubject);
    assert!(world.store.object(&world.tenant, &key).await.is_ok());
}

pub(crate) async fn photos_put_again_do_not_touch_jobs_that_go_on<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    let upload = world.store.begin_upload(&world.tenant, &name("ada")).await.unwrap();
    let other = Photo { file_name: "other.png".into(), ..world.photo("bob") };
    world.store.commit_upload(&upload, &consent(), &[other]).await.unwrap();
    let grant = world.claim_one().await;
    let Some(v1::grant::Work::Train(work)) = &grant.work else { panic!("{grant:?}") };
    assert_eq!(work.photos[0].file_name, "a.png");
}

pub(crate) async fn a_forgotten_subject_leaves_nothing_and_touches_nobody_else<E: Engine>() {
    let world = World::<E>::new().await;
    let ada = world.put("ada").await;
    world.put("bob").await;
    let job = world.submit(&["ada", "bob"]).await;
    let (train, bob) = (world.claim_one().await, world.claim_one().await);
    world.renew(&train, Some(Progress::Train(report(5, &[0.5; 5])))).await;
    let forgotten = world.store.forget(&world.tenant, &name("ada")).await.unwrap();
    assert_eq!(forgotten.jobs, std::slice::from_ref(&job.id));

    assert_eq!(code(world.store.subject(&world.tenant, &name("ada")).await), ErrorCode::UnknownSubject);
    let photo = ada.photos[0].object.as_ref().unwrap().key.parse().unwrap();
    assert_eq!(code(world.store.object(&world.tenant, &photo).await), ErrorCode::UnknownObject);
    assert_eq!(world.renew(&train, checkpointed(&train, 10)).await, Verdict::Lost);
    assert_eq!(code(world.complete(&train).await), ErrorCode::StaleFence);
    let curve = world.store.losses(&world.tenant, job.id.parse().unwrap(), &name("ada")).await.unwrap();
    assert!(curve.losses.is_empty());
    let stub = &world.job(&job).await.subjects[0];
    assert_eq!(
        (stub.state(), stub.error.as_ref().unwrap().code()),
        (SubjectState::Failed, ErrorCode::SubjectForgotten)
    );
    assert_eq!((stub.init.as_str(), stub.warnings.len()), ("", 0));

    assert_eq!(world.renew(&bob, None).await, Verdict::Continue);
    world.complete(&bob).await.unwrap();
    world.work().await;
    assert_eq!(world.job(&job).await.state(), v1::JobState::PartlyFailed);
    world.store.swept(&forgotten.erasure).await.unwrap();
    assert_eq!(code(world.store.forget(&world.tenant, &name("ada")).await), ErrorCode::UnknownSubject);
}

pub(crate) async fn a_finished_job_stays_as_it_ended_when_its_subject_is_forgotten<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    world.work().await;
    world.store.forget(&world.tenant, &name("ada")).await.unwrap();
    let job = world.job(&job).await;
    assert_eq!((job.state(), job.subjects[0].avatars.len()), (v1::JobState::Succeeded, 0));
    assert_eq!(job.subjects[0].error.as_ref().unwrap().code(), ErrorCode::SubjectForgotten);
}

pub(crate) async fn a_subject_is_put_again_only_after_its_erasure_and_then_kept<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    let stale = world.claim_one().await;
    let erasure = world.store.forget(&world.tenant, &name("ada")).await.unwrap().erasure;
    assert_eq!(code(world.store.begin_upload(&world.tenant, &name("ada")).await), ErrorCode::Unavailable);
    world.store.swept(&erasure).await.unwrap();

    let photo = world.put("ada").await.photos[0].object.clone().unwrap().key.parse().unwrap();
    world.try_submit("second", &["ada"], true).await.unwrap();
    let current = world.claim_one().await;
    let keep = output(&current, "checkpoint-000010.safetensors").key;
    let late = output(&stale, "embedding.safetensors").key;
    world.clock.advance(2 * LEASE);
    let owed = world.store.owed(Sweep::Due).await.unwrap();
    let [erasure] = owed.as_slice() else { panic!("one late sweep is due: {owed:?}") };
    let unknown = world.store.unknown(erasure, vec![photo, keep, late.clone()]).await.unwrap();
    assert_eq!(unknown, [late], "only what the stale worker wrote");
    world.store.swept(erasure).await.unwrap();
    assert!(world.store.owed(Sweep::Due).await.unwrap().is_empty());
    assert_eq!(world.store.owed(Sweep::All).await.unwrap().len(), 1, "the last one comes later");
}

pub(crate) async fn an_upload_overtaken_by_forgetting_is_refused<E: Engine>() {
    let world = World::<E>::new().await;
    let upload = world.store.begin_upload(&world.tenant, &name("ada")).await.unwrap();
    world.store.forget(&world.tenant, &name("ada")).await.unwrap();
    let photo = world.photo("ada");
    let refused = world.store.commit_upload(&upload, &consent(), std::slice::from_ref(&photo)).await;
    assert_eq!(code(refused), ErrorCode::SubjectForgotten);
    world.store.abandon_upload(&upload).await.unwrap();
    let erasure = &world.store.owed(Sweep::All).await.unwrap()[0];
    assert_eq!(world.store.unknown(erasure, vec![photo.object.key.clone()]).await.unwrap(), [photo.object.key]);
}

pub(crate) async fn photos_are_not_swept_under_an_upload_that_goes_on<E: Engine>() {
    let world = World::<E>::new().await;
    let failed = world.store.begin_upload(&world.tenant, &name("ada")).await.unwrap();
    world.store.abandon_upload(&failed).await.unwrap();
    let going = world.store.begin_upload(&world.tenant, &name("ada")).await.unwrap();
    let photo = world.photo("ada");
    let erasure = &world.store.owed(Sweep::Due).await.unwrap()[0];
    assert!(world.store.unknown(erasure, vec![photo.object.key.clone()]).await.unwrap().is_empty());
    world.store.swept(erasure).await.unwrap();

    world.store.commit_upload(&going, &consent(), std::slice::from_ref(&photo)).await.unwrap();
    let erasure = &world.store.owed(Sweep::Due).await.unwrap()[0];
    assert!(erasure.locked, "nothing goes on now");
    assert!(world.store.unknown(erasure, vec![photo.object.key]).await.unwrap().is_empty(), "it is committed");
    world.store.swept(erasure).await.unwrap();
    assert!(world.store.owed(Sweep::All).await.unwrap().is_empty());
}

pub(crate) async fn an_upload_that_never_ends_is_taken_back<E: Engine>() {
    let world = World::<E>::new().await;
    let upload = world.store.begin_upload(&world.tenant, &name("ada")).await.unwrap();
    world.clock.advance(UPLOAD_LIMIT);
    world.store.expire().await.unwrap();
    let refused = world.store.commit_upload(&upload, &consent(), &[world.photo("ada")]).await;
    assert_eq!(code(refused), ErrorCode::SubjectForgotten);
    assert_eq!(world.store.owed(Sweep::Due).await.unwrap().len(), 1);
}

pub(crate) async fn everything_survives_a_restart<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    let old = world.claim_one().await;
    let before = world.job(&job).await;

    let world = world.reopened().await;
    assert_eq!(world.job(&job).await, before);
    assert!(world.claim().await.is_empty(), "the lease is remembered");
    world.lapse().await;
    let new = world.claim_one().await;
    assert_eq!(new.fence, old.fence + 1, "and so is its fence");
    assert_eq!(code(world.complete(&old).await), ErrorCode::StaleFence);
    world.complete(&new).await.unwrap();
    world.work().await;
    assert_eq!(world.job(&job).await.state(), v1::JobState::Succeeded);
}

pub(crate) async fn a_restarted_worker_gets_its_tasks_back_at_once<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    let old = world.claim_one().await;
    let reborn = Incarnation::new();
    world.register("node-1", reborn, vec![model('a')]).await;
    let new = world.claim_as(reborn, TaskKind::ALL).await.unwrap().pop().unwrap();
    assert_eq!((new.task_id.clone(), new.fence), (old.task_id.clone(), old.fence + 1));
    assert_eq!(world.renew(&old, None).await, Verdict::Lost);
    assert_eq!(code(world.claim_as(world.worker, TaskKind::ALL).await), ErrorCode::UnknownWorker);
}

pub(crate) async fn registering_again_changes_nothing_for_the_same_process<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    let grant = world.claim_one().await;
    world.register("node-1", world.worker, vec![model('a')]).await;
    assert_eq!(world.renew(&grant, None).await, Verdict::Continue);
}

pub(crate) async fn workers_get_only_what_they_can_do<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    assert!(world.claim_as(world.worker, &[TaskKind::Render]).await.unwrap().is_empty());
    let elsewhere = Incarnation::new();
    world.register("node-2", elsewhere, vec![model('b')]).await;
    assert!(world.claim_as(elsewhere, TaskKind::ALL).await.unwrap().is_empty());
    assert_eq!(code(world.claim_as(Incarnation::new(), TaskKind::ALL).await), ErrorCode::UnknownWorker);
}

pub(crate) async fn workers_that_claim_at_once_never_get_the_same_task<E: Engine>() {
    let world = World::<E>::new().await;
    let subjects: Vec<String> = (0..8).map(|number| format!("subject-{number}")).collect();
    for subject in &subjects {
        world.put(subject).await;
    }
    world.submit(&subjects.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let ask = ask(world.worker, TaskKind::ALL, 3);
    let claims = futures::future::join_all((0..4).map(|_| world.store.claim(&ask))).await;
    let mut tasks: Vec<_> = claims.into_iter().flat_map(Result::unwrap).map(|grant| grant.task_id).collect();
    assert_eq!(tasks.len(), 8);
    tasks.sort();
    tasks.dedup();
    assert_eq!(tasks.len(), 8);
}

pub(crate) async fn changes_are_told_and_revisions_grow<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let (mut jobs, mut ready) = (world.store.signals().jobs(), world.store.signals().ready());
    let job = world.submit(&["ada"]).await;
    assert!(ready.has_changed().unwrap());
    ready.mark_unchanged();
    let train = world.claim_one().await;
    jobs.changed(job.id.parse().unwrap()).await;
    assert!(!ready.has_changed().unwrap(), "a grant makes nothing ready");
    let revision = world.job(&job).await.revision;
    assert!(revision > job.revision);
    world.renew(&train, None).await;
    assert_eq!(world.job(&job).await.revision, revision, "a plain renewal is no change of the job");
    world.complete(&train).await.unwrap();
    assert!(ready.has_changed().unwrap());
    assert!(world.job(&job).await.revision > revision);
}

pub(crate) async fn jobs_are_listed_newest_first<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let mut ids = Vec::new();
    for key in ["a", "b", "c"] {
        ids.insert(0, world.try_submit(key, &["ada"], true).await.unwrap().id);
        world.clock.advance(Duration::from_millis(1));
    }
    let listed = world.store.jobs(&world.tenant, 2).await.unwrap();
    assert_eq!(listed.iter().map(|job| &job.id).collect::<Vec<_>>(), ids[..2].iter().collect::<Vec<_>>());
}

/// One test for each clause of the contract.
macro_rules! contract {
    ($engine:ty: $($clause:ident),+ $(,)?) => {
        $(#[tokio::test]
        async fn $clause() {
            crate::store::contract::$clause::<$engine>().await;
        })+
    };
    ($engine:ty) => {
        contract! {
            $engine:
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
        }
    };
}
pub(crate) use contract;
