//! Training as a task: a bucket in memory, a probe in the coordinator's place.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{MODEL, photos, resolve, small};
use likeness_diffusion::{Device, Embedding};
use likeness_proto::{
    Assignment as Kind, Checkpoint, ErrorCode, Fence, Grant, LeaseId, ObjectKey, ObjectRef, Parameterization, Photo,
    Sha256, Snapshot, TaskId, TaskKind, TrainSpec, TrainWork, output_prefix, token_of, v1,
};
use likeness_trainer::{Options, Trainer};
use likeness_worker::{Bucket, Done, Stop, Task, TaskProbe, Work, WorkError};
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};

/// One subject's task and all that stands around it.
struct Bench {
    store: Arc<dyn ObjectStore>,
    grant: Grant,
}

/// What the coordinator's stand-in heard.
#[derive(Default)]
struct Heard {
    losses: Vec<f32>,
    evaluations: Vec<u32>,
    checkpoint: Option<Checkpoint>,
    previews: Vec<Snapshot>,
}

impl Bench {
    async fn new(spec: TrainSpec) -> Self {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (tenant, subject) = ("default".parse().unwrap(), "ada".parse().unwrap());
        let mut stored = Vec::new();
        for (i, bytes) in photos("subject-01", 2).into_iter().enumerate() {
            let key: ObjectKey = format!("v1/default/ada/photos/{i}.png").parse().unwrap();
            let object = ObjectRef::of(key.clone(), &bytes);
            store.put(&Path::from(key.as_str()), bytes.into()).await.unwrap();
            stored.push(Photo { file_name: format!("{i}.png"), object, width: 128, height: 128, caption: None });
        }
        let lease = LeaseId { task: TaskId::new(), fence: Fence::new(1).unwrap() };
        let work =
            TrainWork { spec, photos: stored, init: "person".into(), token: token_of(&subject), checkpoint: None };
        let grant = Grant {
            lease,
            lease_time: Duration::from_secs(30),
            attempt: 1,
            job: likeness_proto::JobId::new(),
            output_prefix: output_prefix(&tenant, &subject, TaskKind::Train, lease),
            subject,
            base_model: MODEL.digest.to_string().parse().unwrap(),
            traceparent: None,
            work: Kind::Train(work),
        };
        Self { store, grant }
    }

    fn work(&mut self) -> &mut TrainWork {
        let Kind::Train(work) = &mut self.grant.work else { panic!("not a training") };
        work
    }

    /// Runs one attempt on a trainer of its own; `stop` fires once so many losses were heard.
    async fn attempt(&self, stop: Option<(usize, Stop)>) -> (Result<Done, WorkError>, Heard) {
        self.attempt_on(&trainer(), stop).await
    }

    async fn attempt_on(&self, trainer: &Trainer, stop: Option<(usize, Stop)>) -> (Result<Done, WorkError>, Heard) {
        let (task, probe) =
            Task::alone(&self.grant, Bucket::new(Arc::clone(&self.store), self.grant.output_prefix.clone()));
        let heard = Arc::new(Mutex::new(Heard::default()));
        let listening = tokio::spawn(listen(probe, Arc::clone(&heard), stop));
        let ended = trainer.run(self.grant.clone(), task).await;
        listening.abort();
        let _ = listening.await;
        let heard = std::mem::take(&mut *heard.lock().unwrap());
        (ended, heard)
    }

    async fn embedding(&self, done: &Done) -> Vec<u8> {
        let Some(v1::complete_request::Result::Train(result)) = Some(&done.result) else { panic!("not a training") };
        let object: ObjectRef = result.embedding.clone().unwrap().try_into().unwrap();
        Bucket::new(Arc::clone(&self.store), self.grant.output_prefix.clone()).get(&object).await.unwrap()
    }
}

fn trainer() -> Trainer {
    Trainer::new(Arc::clone(&MODEL), Options::default())
}

async fn listen(probe: TaskProbe, heard: Arc<Mutex<Heard>>, stop: Option<(usize, Stop)>) {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    loop {
        tokio::select! {
            () = probe.wanted() => {}
            _ = tick.tick() => {}
        }
        let mut heard = heard.lock().unwrap();
        if let Some(v1::renewal::Progress::Train(report)) = probe.renew() {
            heard.losses.extend(report.losses);
            heard.evaluations.extend(report.evaluations.iter().map(|e| e.step));
            heard.previews.extend(report.preview.map(|snapshot| Snapshot::try_from(snapshot).unwrap()));
            heard.checkpoint = report.checkpoint.map(|c| c.try_into().unwrap()).or(heard.checkpoint.take());
        }
        if let Some((_, why)) = stop.filter(|(losses, _)| heard.losses.len() >= *losses) {
            probe.stop(why);
        }
    }
}

/// So many quick steps that a signal comes in between.
fn long(steps: u32) -> v1::TrainSpec {
    v1::TrainSpec {
        max_steps: Some(steps),
        batch_size: Some(1),
        evaluate_every: Some(1000),
        checkpoint_every: Some(1000),
        ..small(Parameterization::Adamw, 1)
    }
}

fn outcome(done: &Done) -> v1::TrainOutcome {
    let v1::complete_request::Result::Train(result) = &done.result else { panic!("not a training") };
    result.outcome.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_ends_with_an_embedding_and_its_story() {
    let bench = Bench::new(resolve(small(Parameterization::Direction, 2))).await;
    let (ended, heard) = bench.attempt(None).await;
    let done = ended.unwrap();
    let told = outcome(&done);
    assert_eq!((told.steps, told.stop_reason), (6, v1::StopReason::MaxSteps as i32));
    assert!(told.evaluation_loss_best <= told.evaluation_loss_first && told.seconds > 0.0);
    assert!(heard.losses.len() >= 4, "what was not heard before the end goes along with the result");
    assert_eq!(heard.checkpoint.unwrap().step, 4);

    let embedding = Embedding::from_bytes(&bench.embedding(&done).await, &Device::Cpu).unwrap();
    let facts = embedding.facts.unwrap();
    assert_eq!((embedding.token.as_str(), embedding.rows.dims()), ("<ada>", &[2, MODEL.text.width()][..]));
    assert_eq!((&facts.base_model, facts.init.as_str()), (&MODEL.digest, "person"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_vectors_are_told_at_preview_points_and_those_of_a_resumed_run_are_the_same() {
    let mut bench = Bench::new(resolve(v1::TrainSpec { checkpoint_every: Some(20), ..long(40) })).await;
    let (ended, unbroken) = bench.attempt(None).await;
    ended.unwrap();
    let steps = |heard: &Heard| heard.previews.iter().map(|told| told.step).collect::<Vec<_>>();
    assert!(!unbroken.previews.is_empty() && steps(&unbroken).iter().all(|step| [10, 20, 30].contains(step)));
    let bytes = async |told: &Snapshot| {
        let prefix = bench.grant.output_prefix.clone();
        Bucket::new(Arc::clone(&bench.store), prefix).get(&told.embedding).await.unwrap()
    };
    let last = unbroken.previews.last().unwrap();
    let embedding = Embedding::from_bytes(&bytes(last).await, &Device::Cpu).unwrap();
    let facts = embedding.facts.unwrap();
    assert_eq!((facts.steps, embedding.rows.dims()), (u64::from(last.step), &[1, MODEL.text.width()][..]));
    let first = bytes(last).await;

    // Goes on at a point, and tells of that again.
    bench.work().checkpoint = unbroken.checkpoint.clone();
    let (ended, resumed) = bench.attempt(None).await;
    ended.unwrap();
    assert!(steps(&resumed).iter().all(|step| [20, 30].contains(step)), "{:?}", steps(&resumed));
    for told in resumed.previews.iter().filter(|told| told.step == last.step) {
        assert_eq!(told, last, "put again, it is the same object");
    }
    assert_eq!(Sha256::of(&first), last.embedding.sha256);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_task_goes_on_elsewhere_to_the_same_embedding() {
    let mut bench = Bench::new(resolve(long(30))).await;
    let unbroken = bench.attempt(None).await.0.unwrap();
    let (ended, heard) = bench.attempt(Some((1, Stop::Draining))).await;
    assert_eq!(ended.unwrap_err(), WorkError::Stopped);
    let checkpoint = heard.checkpoint.expect("a drain leaves a checkpoint");
    assert!(checkpoint.step >= 1 && heard.losses.len() == checkpoint.step as usize);

    bench.work().checkpoint = Some(checkpoint.clone());
    let (ended, heard) = bench.attempt(None).await;
    let resumed = ended.unwrap();
    assert!(heard.losses.len() <= 30 - checkpoint.step as usize, "steps done are not done again");
    assert_eq!(bench.embedding(&resumed).await, bench.embedding(&unbroken).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_at_the_same_time_come_to_the_embeddings_that_they_come_to_one_after_the_other() {
    let (first, second) = (
        Bench::new(resolve(small(Parameterization::Direction, 2))).await,
        Bench::new(resolve(small(Parameterization::Adamw, 1))).await,
    );
    let trainer = trainer();
    let both = tokio::join!(first.attempt_on(&trainer, None), second.attempt_on(&trainer, None));
    let (first_done, second_done) = (both.0.0.unwrap(), both.1.0.unwrap());
    let (first_alone, second_alone) = (first.attempt(None).await.0.unwrap(), second.attempt(None).await.0.unwrap());
    assert_eq!(first.embedding(&first_done).await, first.embedding(&first_alone).await);
    assert_eq!(second.embedding(&second_done).await, second.embedding(&second_alone).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_stopped_leaves_its_neighbour_alone() {
    let (stopped, neighbour) = (Bench::new(resolve(long(1000))).await, Bench::new(resolve(long(8))).await);
    let trainer = trainer();
    let both =
        tokio::join!(stopped.attempt_on(&trainer, Some((2, Stop::Cancelled))), neighbour.attempt_on(&trainer, None));
    assert_eq!(both.0.0.unwrap_err(), WorkError::Stopped);
    let alone = neighbour.attempt(None).await.0.unwrap();
    assert_eq!(neighbour.embedding(&both.1.0.unwrap()).await, neighbour.embedding(&alone).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_lost_or_cancelled_writes_nothing_more() {
    for why in [Stop::Lost, Stop::Cancelled] {
        let bench = Bench::new(resolve(long(1000))).await;
        let (ended, heard) = bench.attempt(Some((1, why))).await;
        assert_eq!(ended.unwrap_err(), WorkError::Stopped);
        assert!(heard.checkpoint.is_none() && heard.losses.len() < 1000);
        let found = bench.store.list_with_delimiter(Some(&Path::from("v1/default/ada/train"))).await.unwrap();
        assert!(found.objects.is_empty() && found.common_prefixes.is_empty(), "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_cannot_be_used_costs_only_time() {
    let mut bench = Bench::new(resolve(small(Parameterization::Direction, 1))).await;
    let clean = bench.attempt(None).await.0.unwrap();
    let bytes = b"not a checkpoint".to_vec();
    let object = bench_put(&bench, "v1/default/ada/train/old/checkpoint-000002.safetensors", bytes).await;
    bench.work().checkpoint = Some(Checkpoint { object, step: 2 });
    let again = bench.attempt(None).await.0.unwrap();
    assert_eq!(bench.embedding(&again).await, bench.embedding(&clean).await);
}

async fn bench_put(bench: &Bench, key: &str, bytes: Vec<u8>) -> ObjectRef {
    let object = ObjectRef::of(key.parse().unwrap(), &bytes);
    bench.store.put(&Path::from(key), bytes.into()).await.unwrap();
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_learned_says_so_and_is_not_tried_again() {
    let spec = resolve(small(Parameterization::Direction, 1));
    let mut no_picture = Bench::new(spec.clone()).await;
    let object = bench_put(&no_picture, "v1/default/ada/photos/x.png", b"no picture".to_vec()).await;
    no_picture.work().photos[0].object = object;
    let mut no_words = Bench::new(spec.clone()).await;
    no_words.work().init = "   ".to_owned();
    let mut gone = Bench::new(spec).await;
    gone.work().photos[0].object.key = "v1/default/ada/photos/gone.png".parse().unwrap();

    let cases = [
        (no_picture, ErrorCode::ImageDamaged, "photo 0.png"),
        (no_words, ErrorCode::InitEmpty, "initial phrase"),
        (gone, ErrorCode::UnknownObject, "gone.png"),
    ];
    for (bench, code, named) in cases {
        let WorkError::Failed { code: got, message, retry } = bench.attempt(None).await.0.unwrap_err() else {
            panic!()
        };
        assert_eq!((got, retry), (code, false), "{message}");
        assert!(message.contains(named), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_for_another_model_is_handed_back() {
    let mut bench = Bench::new(resolve(small(Parameterization::Direction, 1))).await;
    bench.grant.base_model = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let WorkError::Failed { code, retry, .. } = bench.attempt(None).await.0.unwrap_err() else { panic!() };
    assert_eq!((code, retry), (ErrorCode::ModelUnavailable, true));
}
