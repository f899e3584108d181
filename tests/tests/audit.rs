//! The audit log and a restored backup, as an operator meets them.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::fs;
use std::path::Path;

use likeness_cli::exit::Exit;
use likeness_proto::v1::ErrorCode;
use likeness_tests::{Sandbox, photo_folder};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_likeness-under-test");

/// Stores photos; without a worker the job itself is refused.
fn put(sandbox: &Sandbox, subject: &str) {
    let photos = photo_folder(&sandbox.path(subject), "subject-02", 1);
    let prompts = sandbox.path("prompts.toml");
    fs::write(&prompts, "prompts = [\"a photo of {subject}\"]").unwrap();
    let prompts = prompts.to_str().unwrap();
    let args = ["submit", photos.to_str().unwrap(), "--subject", subject, "--init", "person", "--prompts", prompts];
    let consent = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"];
    let refused = Exit::Refused(ErrorCode::ModelUnavailable).code().into();
    sandbox.run(&[&args[..], &consent].concat()).fails(refused, &["no worker"]);
}

fn actions(log: &Value) -> Vec<&str> {
    log.as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect()
}

fn files_under(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { names.extend(files_under(&path)) } else { names.push(path.display().to_string()) }
    }
    names
}

#[test]
fn a_restored_backup_is_held_to_what_was_forgotten_since_and_its_shorter_log_is_noticed() {
    let mut sandbox = Sandbox::stopped(PROGRAM);
    sandbox.coordinator();
    put(&sandbox, "zoe");
    put(&sandbox, "bob");
    sandbox.drain();
    let (store, backup) = (sandbox.state().join("likeness.db"), sandbox.path("backup.db"));
    fs::copy(&store, &backup).unwrap();

    sandbox.coordinator();
    let receipt = sandbox.run(&["forget", "zoe", "--yes", "--json"]).json();
    let head = receipt["audit_hash"].as_str().unwrap();
    let verified = sandbox.run(&["audit", "verify", "--head", head, "--json"]).json();
    assert_eq!((&verified["entries"], verified["head"].as_str()), (&receipt["audit_sequence"], Some(head)));
    sandbox.drain();
    fs::copy(&backup, &store).unwrap();

    let text = sandbox.run(&["audit", "verify"]).succeeds().stdout();
    assert!(text.starts_with("ok, 3 entries, head "), "by itself it looks whole: {text}");
    sandbox.run(&["audit", "verify", "--head", head]).fails(Exit::Audit.code().into(), &[head, "cut off"]);

    sandbox.coordinator();
    let subjects = sandbox.run(&["subjects", "--json"]).json();
    assert_eq!((subjects.as_array().unwrap().len(), &subjects[0]["name"]), (1, &"bob".into()));
    let log = sandbox.run(&["audit", "list", "--tenant", "local", "--subject", "zoe", "--json"]).json();
    assert_eq!(actions(&log), ["subject put", "erasure replayed"]);
    let all = sandbox.run(&["audit", "list", "--json"]).json();
    assert_eq!(actions(&all), ["tenant created", "subject put", "subject put", "erasure replayed"]);
    // No digit of a hash is in her name.
    assert!(!all.to_string().contains("zoe"), "a name stands in the log: {all:#}");
    let left = files_under(&sandbox.state().join("bucket"));
    assert!(left.iter().all(|name| !name.contains("/zoe/")), "left behind: {left:?}");
    let replayed = sandbox.run(&["admin", "replay-erasures", "--json"]).json();
    assert_eq!((&replayed["buried"], &replayed["forgotten"]), (&1.into(), &0.into()));
}

#[test]
fn a_store_without_a_log_is_told() {
    let sandbox = Sandbox::stopped(PROGRAM);
    sandbox.run(&["audit", "verify"]).fails(Exit::State.code().into(), &["likeness.db"]);
    sandbox.run(&["audit", "verify", "--head", "abc"]).fails(Exit::Usage.code().into(), &["64 lower-case hex"]);
}
