//! The service as people use it: several subjects, finished subjects again, restarts, erasure.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use likeness_cli::exit::Exit;
use likeness_proto::v1::ErrorCode;
use likeness_tests::{Sandbox, avatars, bundled_photos, photo_folder};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_likeness-under-test");
const CONSENT: [&str; 6] = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"];
const QUICK: [&str; 6] = ["--steps", "4", "--batch", "2", "--init", "person"];

fn prompts(sandbox: &Sandbox) -> String {
    let file = sandbox.path("prompts.toml");
    fs::write(&file, "prompts = [\"a photo of {subject}\", \"pixel art of {subject}\"]\nsteps = 3").unwrap();
    file.to_str().unwrap().to_owned()
}

fn photos(sandbox: &Sandbox) -> PathBuf {
    photo_folder(&sandbox.path("photos"), "subject-01", 3)
}

fn submit(sandbox: &Sandbox, more: &[&str]) -> String {
    submit_learning(sandbox, &QUICK, more)
}

fn submit_learning(sandbox: &Sandbox, learning: &[&str], more: &[&str]) -> String {
    let (folder, prompts) = (photos(sandbox), prompts(sandbox));
    let subject = [folder.to_str().unwrap(), "--subject", "lovelace", "--prompts", &prompts];
    sandbox.submit(&[&subject[..], learning, &CONSENT, more].concat())
}

fn finished(sandbox: &Sandbox, job: &str) -> Value {
    let (job, code) = sandbox.watch(job).end();
    assert_eq!(code, 0, "{job:#}");
    job
}

#[test]
fn a_job_goes_from_photos_to_avatars_a_sheet_and_an_embedding() {
    let sandbox = Sandbox::start(PROGRAM);
    let job = submit(&sandbox, &[]);
    let ended = finished(&sandbox, &job);

    let out = sandbox.fetch(&job, "out");

    assert_eq!(ended["state"], "succeeded");
    assert_eq!(avatars(&out).len(), 2);
    let subject = out.join("lovelace");
    for name in ["contact-sheet.png", "embedding.safetensors"] {
        assert!(subject.join(name).is_file(), "no {name} in {}", subject.display());
    }
    let embedding = subject.join("embedding.safetensors");
    let facts = sandbox.run(&["embedding", "inspect", embedding.to_str().unwrap(), "--json"]).json();
    assert_eq!(facts["token"], "<lovelace>");
    assert_eq!(facts["facts"]["base_model"], ended["base_model"]);
}

#[test]
fn every_avatar_says_what_it_is_and_nothing_about_the_person() {
    let sandbox = Sandbox::start(PROGRAM);
    let job = submit(&sandbox, &[]);
    let ended = finished(&sandbox, &job);

    for (name, bytes) in avatars(&sandbox.fetch(&job, "out")) {
        let text = String::from_utf8_lossy(&bytes);
        for said in ["trainedAlgorithmicMedia", &job, ended["base_model"].as_str().unwrap()] {
            assert!(text.contains(said), "{} does not say {said}", name.display());
        }
        assert!(!text.contains("lovelace"), "{} names the subject", name.display());
    }
}

#[test]
fn a_preview_shows_how_far_the_learning_was() {
    let sandbox = Sandbox::start(PROGRAM);
    let long = ["--steps", "100", "--batch", "2", "--evaluate-every", "1000", "--previews", "1", "--init", "person"];
    let job = submit_learning(&sandbox, &long, &[]);
    let ended = finished(&sandbox, &job);
    let previews = ended["subjects"][0]["previews"].as_array().unwrap();
    assert_eq!(previews.iter().map(|preview| preview["step"].as_u64()).collect::<Vec<_>>(), [Some(50)]);

    let out = sandbox.path("with-previews");
    sandbox.run(&["fetch", &job, "--out", out.to_str().unwrap(), "--previews"]).succeeds();
    let file = fs::read(out.join("lovelace/previews/step-000050.png")).unwrap();
    let text = String::from_utf8_lossy(&file);
    assert!(text.contains("likeness:PreviewOfStep=\"50\"") && text.contains(&job) && !text.contains("lovelace"));
    let first = fs::read(out.join("lovelace/avatars/001.png")).unwrap();
    assert_ne!(file, first, "the vectors went on");
    assert!(!sandbox.fetch(&job, "without").join("lovelace/previews").exists());
}

#[test]
fn a_finished_subject_gets_new_avatars_without_training() {
    let sandbox = Sandbox::start(PROGRAM);
    finished(&sandbox, &submit(&sandbox, &[]));

    let again = sandbox.submit(&["--embedding", "lovelace", "--prompts", &prompts(&sandbox)]);
    let ended = finished(&sandbox, &again);

    assert!(ended["train"].is_null(), "nothing was to be learned: {ended:#}");
    assert_eq!(avatars(&sandbox.fetch(&again, "again")).len(), 2);
}

#[test]
fn a_subject_without_an_embedding_cannot_be_drawn() {
    let sandbox = Sandbox::start(PROGRAM);
    let ran = sandbox.run(&["submit", "--embedding", "nobody", "--prompts", &prompts(&sandbox)]);
    ran.fails(Exit::Refused(ErrorCode::UnknownSubject).code().into(), &["nobody"]);
}

#[test]
fn in_a_dataset_a_bad_subject_fails_alone() {
    let sandbox = Sandbox::start(PROGRAM);
    let dataset = sandbox.path("dataset");
    photo_folder(&dataset, "subject-01", 2);
    photo_folder(&dataset, "subject-02", 2);
    fs::create_dir_all(dataset.join("broken")).unwrap();
    fs::write(dataset.join("broken/photo.png"), "not a picture").unwrap();

    let prompts = prompts(&sandbox);
    let args = ["submit", "--dataset", dataset.to_str().unwrap(), "--prompts", &prompts, "--wait", "--json"];
    let ran = sandbox.run(&[&args[..], &QUICK, &CONSENT].concat());

    assert_eq!(ran.code(), i32::from(Exit::JobPartlyFailed.code()), "{}", ran.stderr());
    assert!(ran.stderr().contains("broken"), "{}", ran.stderr());
    let jobs = sandbox.run(&["list", "--json"]).json();
    assert_eq!(jobs.as_array().unwrap().len(), 1, "one job over all subjects");
    assert_eq!(jobs[0]["state"], "succeeded");
    assert_eq!(jobs[0]["subjects"].as_array().unwrap().len(), 2);
}

#[test]
fn the_same_key_is_the_same_job_and_another_request_under_it_is_refused() {
    let sandbox = Sandbox::start(PROGRAM);
    let first = submit(&sandbox, &["--idempotency-key", "monday"]);
    assert_eq!(submit(&sandbox, &["--idempotency-key", "monday"]), first);

    let (folder, prompts) = (photos(&sandbox), prompts(&sandbox));
    let subject = ["submit", folder.to_str().unwrap(), "--subject", "lovelace", "--prompts", &prompts];
    let other = ["--idempotency-key", "monday", "--seed", "5"];
    let ran = sandbox.run(&[&subject[..], &QUICK, &CONSENT, &other].concat());
    ran.fails(Exit::Refused(ErrorCode::IdempotencyConflict).code().into(), &["monday"]);
}

#[test]
fn what_is_finished_survives_a_restart() {
    let mut sandbox = Sandbox::start(PROGRAM);
    let job = submit(&sandbox, &[]);
    finished(&sandbox, &job);
    let before = sandbox.run(&["show", &job, "--json"]).json();

    assert_eq!(sandbox.drain().code(), Some(0));
    sandbox.up();

    assert_eq!(sandbox.run(&["show", &job, "--json"]).json(), before);
    assert_eq!(avatars(&sandbox.fetch(&job, "out")).len(), 2);
}

#[test]
fn what_training_steps_take_is_measured_once_for_a_state_folder() {
    let mut sandbox = Sandbox::stopped(PROGRAM);
    let curve = |sandbox: &mut Sandbox| {
        let mut command = sandbox.up_command(&[]);
        command.env_remove("LIKENESS__TRAINER_SLOTS");
        sandbox.up_by(command);
        sandbox.drain();
        fs::read_to_string(sandbox.state().join("curve.json")).unwrap()
    };
    let first = curve(&mut sandbox);
    assert!(first.contains("base_model") && first.contains("steps"), "{first}");
    assert_eq!(curve(&mut sandbox), first);
}

#[test]
fn a_cancelled_job_stops_and_says_so() {
    let sandbox = Sandbox::start(PROGRAM);
    let job = submit_learning(&sandbox, &["--steps", "5000", "--init", "person"], &[]);
    sandbox.watch(&job).until("training", |job| job["subjects"][0]["state"] == "training");

    sandbox.run(&["cancel", &job]).succeeds();

    let (ended, code) = sandbox.watch(&job).end();
    assert_eq!((ended["state"].as_str(), code), (Some("cancelled"), Exit::JobCancelled.code().into()));
}

#[test]
fn forgetting_a_subject_erases_everything_and_prints_a_receipt() {
    let sandbox = Sandbox::start(PROGRAM);
    finished(&sandbox, &submit(&sandbox, &[]));
    assert!(bucket_names(&sandbox).iter().any(|name| name.contains("lovelace")));

    let receipt = sandbox.run(&["forget", "lovelace", "--yes", "--json"]).json();

    assert_eq!((&receipt["photos"], &receipt["avatars"]), (&3.into(), &2.into()), "{receipt:#}");
    assert_eq!(receipt["embeddings"], 1);
    let left: Vec<_> = bucket_names(&sandbox).into_iter().filter(|name| name.contains("lovelace")).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert_eq!(sandbox.run(&["subjects", "--json"]).json(), serde_json::json!([]));
    let unknown = Exit::Refused(ErrorCode::UnknownSubject).code().into();
    sandbox.run(&["forget", "lovelace", "--yes"]).fails(unknown, &["lovelace"]);
}

/// Files in the bucket, by their path below it.
fn bucket_names(sandbox: &Sandbox) -> Vec<String> {
    fn walk(folder: &Path, names: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, names) } else { names.push(path.display().to_string()) }
        }
    }
    let mut names = Vec::new();
    walk(&sandbox.state().join("bucket"), &mut names);
    names
}

#[test]
fn the_token_is_for_its_owner_alone_and_nobody_gets_in_without_it() {
    let sandbox = Sandbox::start(PROGRAM);
    let token = sandbox.state().join("token");
    assert_eq!(fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);

    let wrong = sandbox.path("wrong-token");
    fs::write(&wrong, "not-the-token").unwrap();
    let address = sandbox.address();
    let ran = sandbox.run(&["--server", &address, "--token-file", wrong.to_str().unwrap(), "list"]);
    ran.fails(Exit::Refused(ErrorCode::Unauthenticated).code().into(), &["token"]);
}

#[test]
fn a_submit_waits_for_a_server_that_is_just_starting() {
    let mut sandbox = Sandbox::start(PROGRAM);
    sandbox.kill();
    let (folder, prompts) = (bundled_photos("subject-03"), prompts(&sandbox));
    let subject = ["submit", folder.to_str().unwrap(), "--subject", "lovelace", "--prompts", &prompts];
    let submit = sandbox.command(&[&subject[..], &QUICK, &CONSENT].concat()).spawn().unwrap();

    sandbox.up();

    assert!(submit.wait_with_output().unwrap().status.success());
    assert_eq!(sandbox.run(&["list", "--json"]).json().as_array().unwrap().len(), 1);
}
