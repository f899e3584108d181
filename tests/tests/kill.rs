//! `kill -9` of everything at the worst moments: the job still finishes, with the same avatars to the bit.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::path::PathBuf;
use std::sync::LazyLock;

use likeness_tests::{Sandbox, avatars, half_an_upload, photo_folder, pixels};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_likeness-under-test");

/// A job of a few seconds, long enough to be interrupted.
fn submit(sandbox: &Sandbox) -> String {
    let photos = photo_folder(&sandbox.path("photos"), "subject-02", 4);
    let prompts = sandbox.path("prompts.toml");
    std::fs::write(&prompts, PROMPTS).unwrap();
    let (photos, prompts) = (photos.to_str().unwrap(), prompts.to_str().unwrap());
    let training = "--steps 24 --batch 2 --evaluate-every 8 --checkpoint-every 4 --seed 7".split(' ');
    let consent = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"];
    let subject = [photos, "--subject", "bruno", "--init", "person", "--prompts", prompts];
    sandbox.submit(&subject.into_iter().chain(training).chain(consent).collect::<Vec<_>>())
}

const PROMPTS: &str = r#"
steps = 6
seeds = [1, 2]
prompts = ["a photo of {subject}", "a photo of {subject} at the beach", "a pencil sketch of {subject}"]
"#;

/// The pixels of every avatar.
type Avatars = Vec<(PathBuf, Vec<u8>)>;

fn finish(sandbox: &Sandbox, job: &str) -> Avatars {
    let (last, code) = sandbox.watch(job).end();
    assert_eq!(code, 0, "the job ended as {last:#}");
    let drawn = avatars(&sandbox.fetch(job, "out"));
    assert_eq!(drawn.len(), 6);
    drawn.into_iter().map(|(name, file)| (name, pixels(&file))).collect()
}

/// What an undisturbed server makes of the job.
static UNBROKEN: LazyLock<Avatars> = LazyLock::new(|| {
    let sandbox = Sandbox::start(PROGRAM);
    let job = submit(&sandbox);
    finish(&sandbox, &job)
});

fn kill_when(what: &str, condition: impl Fn(&Value) -> bool) {
    let mut sandbox = Sandbox::start(PROGRAM);
    let job = submit(&sandbox);
    sandbox.watch(&job).until(what, condition);

    sandbox.kill();
    sandbox.up();

    assert!(finish(&sandbox, &job) == *UNBROKEN, "other avatars after a kill during {what}");
}

#[test]
fn a_kill_during_training_changes_nothing() {
    kill_when("training after a checkpoint", |job| job["subjects"][0]["checkpoint_step"].as_u64() >= Some(4));
}

#[test]
fn a_kill_during_rendering_changes_nothing() {
    kill_when("rendering", |job| job["subjects"][0]["state"] == "rendering");
}

#[test]
fn a_kill_during_the_upload_leaves_nothing_half_and_the_next_try_succeeds() {
    let mut sandbox = Sandbox::start(PROGRAM);
    let upload = half_an_upload(&sandbox, "bruno");
    sandbox.kill();
    assert!(upload.join().unwrap().is_err(), "the upload was cut off");

    sandbox.up();
    assert_eq!(sandbox.run(&["subjects", "--json"]).json(), serde_json::json!([]));

    let job = submit(&sandbox);
    assert!(finish(&sandbox, &job) == *UNBROKEN, "other avatars after a kill during the upload");
}

#[test]
fn a_drain_gives_the_task_back_and_the_next_server_goes_on_from_its_checkpoint() {
    let mut sandbox = Sandbox::start(PROGRAM);
    let job = submit(&sandbox);
    sandbox.watch(&job).until("training", |job| job["subjects"][0]["step"].as_u64() >= Some(2));

    assert_eq!(sandbox.drain().code(), Some(0));
    sandbox.up();

    let resumed = sandbox.run(&["show", &job, "--json"]).json();
    assert!(resumed["subjects"][0]["checkpoint_step"].as_u64() > Some(0), "nothing was saved: {resumed:#}");
    assert!(finish(&sandbox, &job) == *UNBROKEN, "other avatars after a drain");
}
