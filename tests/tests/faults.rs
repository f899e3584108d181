//! Processes of their own over SQLite and a folder: killed at random points, cut off in the middle of a task, asleep past their lease.
//! Afterwards nothing is lost, nothing is there twice, and nothing is visible that was not committed.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::net::SocketAddr;

use likeness_proto::v1::complete_request::Result as Outcome;
use likeness_proto::v1::workers_client::WorkersClient;
use likeness_proto::v1::{self, Grant};
use likeness_proto::{Bearer, ErrorCode, Incarnation, PROTOCOL_VERSION, Prefix, Refusal, Secret, TaskKind};
use likeness_tests::{Proxy, Sandbox, Trainer, is_visible, photo_folder};
use serde_json::Value;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

const PROGRAM: &str = env!("CARGO_BIN_EXE_likeness-under-test");
const AVATARS: u64 = 2;
const QUICK: &str = "--steps 6 --batch 1 --evaluate-every 3 --checkpoint-every 2 --seed 7";
const LONG: &str = "--steps 60 --batch 2 --evaluate-every 20 --checkpoint-every 5 --seed 7";

fn submit(sandbox: &Sandbox, training: &str) -> String {
    let photos = photo_folder(&sandbox.path("photos"), "subject-02", 2);
    let prompts = sandbox.path("prompts.toml");
    std::fs::write(&prompts, "steps = 2\nseeds = [1, 2]\nprompts = [\"a photo of {subject}\"]").unwrap();
    let consent = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"];
    let (photos, prompts) = (photos.to_str().unwrap(), prompts.to_str().unwrap());
    let subject = [photos, "--subject", "bruno", "--init", "person", "--prompts", prompts];
    sandbox.submit(&subject.into_iter().chain(training.split(' ')).chain(consent).collect::<Vec<_>>())
}

fn coordinator() -> Sandbox {
    let mut sandbox = Sandbox::stopped(PROGRAM);
    sandbox.coordinator();
    sandbox
}

fn started(sandbox: &Sandbox, role: &str) -> Trainer {
    let mut worker = Trainer::of_role(sandbox, role, &[]);
    worker.until_it_says("registered");
    worker
}

/// SplitMix64.
fn dice(state: &mut u64, sides: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % sides
}

#[test]
fn ten_kills_at_random_points_lose_nothing() {
    let mut seed = std::env::var("LIKENESS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    println!("LIKENESS_SEED={seed} replays the points");
    let mut sandbox = coordinator();
    let address = sandbox.address().trim_start_matches("http://").to_owned();
    let mut workers = ["trainer", "sampler"].map(|role| Some(started(&sandbox, role)));
    for run in 0..10 {
        let job = submit(&sandbox, QUICK);
        // Every change of the job is a point: grants, steps, checkpoints, avatars, results.
        let point = 1 + dice(&mut seed, 8);
        let has_come = |job: &Value| job["revision"].as_u64() >= Some(point) || !job["ended_at"].is_null();
        let state = sandbox.watch(&job).until("the point", has_come);
        let victim = if run < 3 { run } else { dice(&mut seed, 3) };
        println!(
            "run {run}: {} killed at revision {}",
            ["coordinator", "trainer", "sampler"][victim as usize],
            state["revision"]
        );
        match victim {
            0 => {
                sandbox.kill();
                sandbox.coordinator_at(&address);
            }
            worker => {
                let role = ["trainer", "sampler"][worker as usize - 1];
                drop(workers[worker as usize - 1].take()); // SIGKILL
                workers[worker as usize - 1] = Some(Trainer::of_role(&sandbox, role, &[]));
            }
        }
        sandbox.nothing_is_lost(&job, AVATARS);
    }
}

#[test]
fn a_trainer_that_is_cut_off_past_its_lease_comes_back_and_loses_nothing() {
    let sandbox = coordinator();
    let server: SocketAddr = sandbox.address().trim_start_matches("http://").parse().unwrap();
    let proxy = Proxy::to(server);
    let way = format!("http://{}", proxy.address());
    let mut trainer = Trainer::of_role(&sandbox, "trainer", &[("SERVER", &way)]);
    trainer.until_it_says("registered");
    let _sampler = started(&sandbox, "sampler");
    let job = submit(&sandbox, LONG);
    trainer.until_it_says("task begun");

    proxy.take_down();
    trainer.until_it_says("lease lapsed");
    proxy.mend();

    sandbox.nothing_is_lost(&job, AVATARS);
}

/// A worker that does as the test says.
struct Sleeper {
    client: WorkersClient<InterceptedService<Channel, Bearer>>,
    incarnation: String,
}

impl Sleeper {
    /// Registers, and leases the training of a job.
    async fn leasing(sandbox: &Sandbox, base_model: &str) -> (Self, Grant) {
        let channel = Endpoint::from_shared(sandbox.address()).unwrap().connect_lazy();
        let mut client = WorkersClient::with_interceptor(channel, Bearer::new(&Secret::new(&sandbox.token()).unwrap()));
        let (incarnation, kinds) = (Incarnation::new().to_string(), vec![TaskKind::Train.encode()]);
        let model = v1::BaseModel { digest: base_model.into(), name: "tiny".into(), native_size: 64, factor: 8 };
        let registration = v1::RegisterRequest {
            protocol_version: PROTOCOL_VERSION,
            worker: "sleeper".into(),
            incarnation: incarnation.clone(),
            kinds: kinds.clone(),
            models: vec![model],
            software: "test".into(),
            previews: false,
        };
        client.register(registration).await.unwrap();
        let ask =
            v1::LeaseRequest { incarnation: incarnation.clone(), kinds, capacity: 1, wait_ms: 10_000, previews: false };
        let grant = client.lease(ask).await.unwrap().into_inner().grants.pop().expect("the training is ready");
        (Self { client, incarnation }, grant)
    }

    async fn complete(&mut self, grant: &Grant, embedding: v1::ObjectRef) -> Refusal {
        let outcome = v1::TrainOutcome { steps: 6, stop_reason: 1, ..Default::default() };
        let result = v1::TrainResult { embedding: Some(embedding), outcome: Some(outcome), last: None };
        let request = v1::CompleteRequest {
            incarnation: self.incarnation.clone(),
            task_id: grant.task_id.clone(),
            fence: grant.fence,
            result: Some(Outcome::Train(result)),
            warnings: vec![],
        };
        Refusal::read(&self.client.complete(request).await.expect_err("it must be refused"))
    }
}

#[test]
fn a_worker_that_sleeps_past_its_lease_and_publishes_is_refused_and_stays_invisible() {
    let sandbox = coordinator();
    let _sampler = started(&sandbox, "sampler");
    let job = submit(&sandbox, QUICK);
    let shown = sandbox.run(&["show", &job, "--json"]).json();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut sleeper, grant) = runtime.block_on(Sleeper::leasing(&sandbox, shown["base_model"].as_str().unwrap()));

    let _trainer = started(&sandbox, "trainer");
    sandbox.nothing_is_lost(&job, AVATARS);

    let key = grant.output_prefix.parse::<Prefix>().unwrap().key("embedding.safetensors").unwrap();
    let file = sandbox.state().join("bucket").join(key.as_str());
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "what it has learned").unwrap();
    let late = likeness_proto::ObjectRef::of(key.clone(), b"what it has learned");
    assert_eq!(runtime.block_on(sleeper.complete(&grant, late.into())).code, ErrorCode::StaleFence);
    assert!(!is_visible((&sandbox.address(), &sandbox.token()), key.as_str()));
    sandbox.nothing_is_lost(&job, AVATARS);
}
