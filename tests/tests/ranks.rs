//! Trainers that learn together: the same result on any number of ranks, and after any of them was lost.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::sync::LazyLock;

use likeness_cli::exit::Exit;
use likeness_proto::v1::{self, ErrorCode, join_request::Said, ranks_client::RanksClient};
use likeness_proto::{Bearer, PROTOCOL_VERSION, Refusal, Secret};
use likeness_tests::{Proxy, Sandbox, Trainer, losses, photo_folder};
use serde_json::Value;
use tonic::transport::Endpoint;

const PROGRAM: &str = env!("CARGO_BIN_EXE_likeness-under-test");

/// A coordinator, and no worker yet.
fn coordinator() -> Sandbox {
    let mut sandbox = Sandbox::stopped(PROGRAM);
    sandbox.coordinator();
    sandbox
}

/// A port that nobody listens on, for a leader.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A node of a group of `size`, whose leader is reached at `leader`.
fn node(sandbox: &Sandbox, leader: SocketAddr, size: usize, index: usize, more: &[&str]) -> Trainer {
    Trainer::start(sandbox, &[&place(leader, size, index).each_ref().map(String::as_str), more].concat())
}

fn place(leader: SocketAddr, size: usize, index: usize) -> [String; 3] {
    [format!("--group-leader={leader}"), format!("--group-size={size}"), format!("--group-index={index}")]
}

fn submit(sandbox: &Sandbox, subject: &str, training: &str) -> String {
    let photos = photo_folder(&sandbox.path("photos"), "subject-02", 4);
    let prompts = sandbox.path("prompts.toml");
    std::fs::write(&prompts, "prompts = [\"a photo of {subject}\"]\nsteps = 1").unwrap();
    let (photos, prompts) = (photos.to_str().unwrap(), prompts.to_str().unwrap());
    let consent = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"];
    let subject = [photos, "--subject", subject, "--init", "person", "--prompts", prompts, "--resolution", "64"];
    sandbox.submit(&subject.into_iter().chain(training.split(' ')).chain(consent).collect::<Vec<_>>())
}

/// Waits until the job's only subject is learned.
#[track_caller]
fn learned(sandbox: &Sandbox, job: &str) {
    sandbox.watch(job).until("its subject was learned", |job| job["subjects"][0]["state"] == "rendering");
}

/// Half-size photos, so that it takes seconds; 5 samples do not come out even.
const FIFTY_STEPS: &str = "--steps 50 --batch 5 --evaluate-every 50 --seed 7";

#[test]
fn processes_have_the_losses_of_one_rank() {
    let sandbox = coordinator();
    let mut trainer = Trainer::start(&sandbox, &[]);
    trainer.until_it_says("registered");
    let job = submit(&sandbox, "alone", FIFTY_STEPS);
    learned(&sandbox, &job);
    trainer.kill();
    let alone = losses(&sandbox, &job, "alone");
    assert_eq!(alone.losses.len(), 50);

    for (subject, nodes, ranks) in [("three", 3, "1"), ("four", 2, "2")] {
        let leader = free_address();
        let mut nodes: Vec<_> =
            (0..nodes).map(|index| node(&sandbox, leader, nodes, index, &["--ranks", ranks])).collect();
        nodes[0].until_it_says("registered");
        let job = submit(&sandbox, subject, FIFTY_STEPS);
        learned(&sandbox, &job);
        let together = losses(&sandbox, &job, subject);
        assert_eq!(together.losses.len(), 50);
        let apart: Vec<f32> = together.losses.iter().zip(&alone.losses).map(|(a, b)| ((a - b) / b).abs()).collect();
        let largest = apart.iter().copied().fold(0.0, f32::max);
        println!("{} processes of {ranks} ranks: losses of 50 steps {largest:.1e} apart, relative", nodes.len());
        assert!(apart[0] < 1e-6 && largest < 1e-4, "{apart:?}");
        let evaluations =
            |curve: &likeness_proto::v1::LossCurve| curve.evaluations.iter().map(|e| e.step).collect::<Vec<_>>();
        assert_eq!(evaluations(&together), evaluations(&alone));
    }
}

/// A job of a few seconds with many checkpoints.
const CHECKPOINTED: &str = "--steps 60 --batch 5 --evaluate-every 30 --checkpoint-every 4 --seed 7";

/// The file of a subject's embedding.
fn embedding(sandbox: &Sandbox, subject: &str) -> Vec<u8> {
    let out = sandbox.path(&format!("{subject}.safetensors"));
    sandbox.run(&["embedding", "export", subject, "--out", out.to_str().unwrap()]).succeeds();
    std::fs::read(out).unwrap()
}

/// What two nodes learn that nothing happens to.
static UNBROKEN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let (sandbox, leader) = (coordinator(), free_address());
    let mut nodes = [0, 1].map(|index| node(&sandbox, leader, 2, index, &[]));
    nodes[0].until_it_says("registered");
    let job = submit(&sandbox, "bruno", CHECKPOINTED);
    learned(&sandbox, &job);
    embedding(&sandbox, "bruno")
});

/// A job under way on two nodes, past its first checkpoint.
struct UnderWay {
    sandbox: Sandbox,
    job: String,
    leader: Trainer,
}

impl UnderWay {
    fn on(sandbox: Sandbox, mut leader: Trainer) -> Self {
        leader.until_it_says_all(["registered", "ranks begin to follow"]);
        let job = submit(&sandbox, "bruno", CHECKPOINTED);
        sandbox.watch(&job).until("a checkpoint", |job| job["subjects"][0]["checkpoint_step"].as_u64() >= Some(4));
        Self { sandbox, job, leader }
    }

    /// The leader has noticed that rank 1 is lost, and goes on from a checkpoint when there is a rank 1 again.
    #[track_caller]
    fn recovers(mut self, gone_by: &str) {
        let told = self.leader.until_it_says("task failed");
        let error = told["error"].as_str().unwrap_or_default();
        assert!(told["code"] == "PeerLost" && error.contains("rank 1") && error.contains(gone_by), "{told:#}");
        self.goes_on();
    }

    #[track_caller]
    fn goes_on(mut self) {
        let [_, begun] = self.leader.until_it_says_all(["ranks begin to follow", "learning rate scaled"]);
        assert!(begun["from_step"].as_u64() >= Some(4), "it began again: {begun:#}");
        learned(&self.sandbox, &self.job);
        assert!(embedding(&self.sandbox, "bruno") == *UNBROKEN, "other vectors than without the fault");
    }
}

#[test]
fn a_follower_that_is_killed_is_replaced_and_changes_nothing() {
    let (sandbox, address) = (coordinator(), free_address());
    let leader = node(&sandbox, address, 2, 0, &[]);
    let follower = node(&sandbox, address, 2, 1, &[]);
    let under_way = UnderWay::on(sandbox, leader);

    assert_eq!(follower.kill().signal(), Some(9));
    let _replacement = node(&under_way.sandbox, address, 2, 1, &[]);
    under_way.recovers("its connection has ended");
}

#[test]
fn a_follower_that_hangs_is_lost_at_the_deadline_and_comes_back() {
    let (sandbox, address) = (coordinator(), free_address());
    let hasty = |index| {
        let settings = [("PLACEMENT", "split"), ("GROUP_DEADLINE_SECONDS", "5")];
        Trainer::start_with(&sandbox, &place(address, 2, index).each_ref().map(String::as_str), &settings)
    };
    let (leader, mut follower) = (hasty(0), hasty(1));
    let mut under_way = UnderWay::on(sandbox, leader);

    follower.signal("STOP");
    under_way.leader.until_it_says("group lost");
    follower.signal("CONT");
    follower.until_it_says("group has ended");
    follower.until_it_says("joined the group");
    under_way.recovers("not there within 5s");
}

#[test]
fn a_follower_that_is_cut_off_joins_again_and_changes_nothing() {
    let (sandbox, address) = (coordinator(), free_address());
    let proxy = Proxy::to(address);
    let leader = node(&sandbox, address, 2, 0, &[]);
    let mut follower = node(&sandbox, proxy.address(), 2, 1, &[]);
    let under_way = UnderWay::on(sandbox, leader);

    assert_eq!(proxy.cut(), 1, "one connection went through the proxy");
    follower.until_it_says("group has ended");
    under_way.recovers("its connection has ended");
}

#[test]
fn a_leader_that_is_killed_is_replaced_and_its_follower_joins_the_next() {
    let (sandbox, address) = (coordinator(), free_address());
    let leader = node(&sandbox, address, 2, 0, &[]);
    let mut follower = node(&sandbox, address, 2, 1, &[]);
    let under_way = UnderWay::on(sandbox, leader);
    let UnderWay { sandbox, job, leader } = under_way;

    assert_eq!(leader.kill().signal(), Some(9));
    follower.until_it_says("group has ended");
    let leader = node(&sandbox, address, 2, 0, &[]);
    UnderWay { sandbox, job, leader }.goes_on();
}

/// Two subjects on two nodes, each of which has one of them.
const LONG: &str = "--steps 120 --batch 5 --evaluate-every 60 --checkpoint-every 4 --seed 7";

#[test]
fn subjects_spread_over_nodes_come_to_the_bits_of_one_rank_through_a_kill_too() {
    let both = |sandbox: &Sandbox, leader: &mut Trainer| {
        leader.until_it_says("registered");
        ["ada", "bruno"].map(|subject| submit(sandbox, subject, LONG))
    };
    let embeddings = |sandbox: &Sandbox| ["ada", "bruno"].map(|subject| embedding(sandbox, subject));
    let alone = {
        let sandbox = coordinator();
        let mut trainer = Trainer::start(&sandbox, &[]);
        both(&sandbox, &mut trainer).iter().for_each(|job| learned(&sandbox, job));
        embeddings(&sandbox)
    };

    let (sandbox, address) = (coordinator(), free_address());
    let spread = |index| {
        let place = place(address, 2, index);
        Trainer::start_with(&sandbox, &place.each_ref().map(String::as_str), &[("PLACEMENT", "spread")])
    };
    let (mut leader, follower) = (spread(0), spread(1));
    let jobs = both(&sandbox, &mut leader);
    for job in &jobs {
        let saved = |job: &Value| job["subjects"][0]["checkpoint_step"].as_u64() >= Some(4);
        sandbox.watch(job).until("a checkpoint", saved);
    }
    assert_eq!(follower.kill().signal(), Some(9));
    leader.until_it_says("group lost");
    let _replacement = spread(1);
    jobs.iter().for_each(|job| learned(&sandbox, job));
    assert!(embeddings(&sandbox) == alone, "other vectors than on one rank");
}

#[test]
fn a_trainer_chooses_a_placement_by_what_it_measures_and_says_why() {
    let sandbox = coordinator();
    let mut trainer = Trainer::start_with(&sandbox, &["--ranks", "2"], &[("MEMORY_BUDGET", "600")]);
    trainer.until_it_says("measuring what training steps take");
    trainer.until_it_says("registered");
    let job = submit(&sandbox, "ada", "--steps 2 --batch 4");
    let chosen = trainer.until_it_says("placement chosen");
    assert_eq!((&chosen["subjects"], &chosen["ranks"]), (&1.into(), &2.into()));
    let why = chosen["why"].as_str().unwrap();
    assert!(
        why.starts_with("a step of 2 samples a rank and a sum takes") && why.contains("one of 4 by themselves"),
        "{why}"
    );
    learned(&sandbox, &job);

    let mut set = Trainer::start_with(&sandbox, &["--ranks", "2"], &[("PLACEMENT", "spread")]);
    drop(trainer);
    set.until_it_says("registered");
    submit(&sandbox, "bruno", "--steps 2 --batch 4");
    let chosen = set.until_it_says("placement chosen");
    assert_eq!((&chosen["placement"], &chosen["why"]), (&"Spread".into(), &"as set".into()));
}

#[test]
fn a_follower_may_come_late() {
    let (sandbox, address) = (coordinator(), free_address());
    let mut leader = node(&sandbox, address, 2, 0, &[]);
    let [waits, _] = leader.until_it_says_all(["group waits for ranks", "registered"]);
    assert_eq!(waits["missing"], Value::from("[1]"));
    let job = submit(&sandbox, "bruno", CHECKPOINTED);
    leader.until_it_says("task begun");

    let mut follower = node(&sandbox, address, 2, 1, &[]);
    follower.until_it_says("joined the group");
    learned(&sandbox, &job);
    assert!(embedding(&sandbox, "bruno") == *UNBROKEN, "other vectors than without the wait");
}

#[test]
fn who_does_not_fit_the_group_is_refused_with_both_values() {
    let (sandbox, address) = (coordinator(), free_address());
    let mut leader = node(&sandbox, address, 2, 0, &[]);
    leader.until_it_says("leading a group");

    for (version, software, named) in [
        (PROTOCOL_VERSION, "0.0.9, sums by rank 0", ["0.0.9", concat!("leader ", env!("CARGO_PKG_VERSION"))]),
        (PROTOCOL_VERSION + 1, "0.0.9, sums by rank 0", ["protocol version", "the group's leader"]),
    ] {
        let refusal = refused_as(&sandbox, address, version, software);
        assert_eq!(refusal.code, ErrorCode::VersionMismatch, "{refusal}");
        assert!(named.iter().all(|word| refusal.message.contains(word)), "{refusal}");
    }

    let (code, said) = node(&sandbox, address, 3, 1, &[]).end();
    assert_eq!(code, Some(i32::from(Exit::Refused(ErrorCode::InvalidArgument).code())), "{said}");
    assert!(said.contains("group size 3") && said.contains("leader 2"), "{said}");

    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/sd15-like");
    let (code, said) = node(&sandbox, address, 2, 1, &["--model", other]).end();
    assert_eq!(code, Some(i32::from(Exit::Refused(ErrorCode::ModelMismatch).code())), "{said}");
    assert_eq!(said.matches("sha256:").count(), 2, "{said}");
}

/// What a leader tells rank 1 that comes with this version of protocol and program.
fn refused_as(sandbox: &Sandbox, leader: SocketAddr, protocol_version: u32, software: &str) -> Refusal {
    let (base_model, software) = (String::new(), software.to_owned());
    let introduction = v1::Introduction { protocol_version, software, base_model, size: 2, rank: 1 };
    let introduction = v1::JoinRequest { said: Some(Said::Introduction(introduction)) };
    let bearer = Bearer::new(&Secret::new(&sandbox.token()).unwrap());
    let joined = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let channel = Endpoint::from_shared(format!("http://{leader}")).unwrap().connect().await.unwrap();
        RanksClient::with_interceptor(channel, bearer).join(tokio_stream::iter([introduction])).await
    });
    Refusal::read(&joined.err().unwrap())
}

#[test]
fn an_all_reduce_is_measured_between_processes() {
    let sandbox = Sandbox::stopped(PROGRAM);
    let line = "bench all-reduce --backend grpc --ranks 4 --bytes 65536 --calls 50";
    let view = sandbox.run(&line.split(' ').collect::<Vec<_>>()).json();
    assert_eq!((&view["backend"], &view["ranks"], &view["calls"]), (&"grpc".into(), &4.into(), &50.into()));
    let milliseconds = |field: &str| view[field].as_f64().unwrap();
    assert!(0.0 < milliseconds("median_ms") && milliseconds("median_ms") <= milliseconds("p99_ms"), "{view}");
}
