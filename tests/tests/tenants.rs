//! A coordinator that others call, over TLS, with keys of its tenants.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::process::Command;

use likeness_cli::exit::Exit;
use likeness_proto::v1::ErrorCode;
use likeness_tests::{Desk, Ran, photo_folder};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_likeness-under-test");

fn refused(code: ErrorCode) -> i32 {
    Exit::Refused(code).code().into()
}

#[test]
fn tenants_call_over_tls_and_see_their_own() {
    let desk = Desk::start(PROGRAM, &[]);
    let (acme, other) = (desk.key("acme", "member"), desk.key("other", "member"));
    let photos = photo_folder(&desk.path("photos"), "subject-01", 2);
    let prompts = desk.path("prompts.toml");
    std::fs::write(&prompts, "prompts = [\"a photo of {subject}\"]").unwrap();
    let consent = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"];
    let submit = [
        "submit",
        photos.to_str().unwrap(),
        "--subject",
        "ada",
        "--init",
        "person",
        "--prompts",
        prompts.to_str().unwrap(),
    ];
    // There is no worker: photos are stored, the job is refused.
    desk.run(&acme, &[&submit[..], &consent].concat()).fails(refused(ErrorCode::ModelUnavailable), &["no worker"]);

    assert_eq!(desk.run(&acme, &["subjects", "--json"]).json().as_array().unwrap().len(), 1);
    assert_eq!(desk.run(&other, &["subjects", "--json"]).json().as_array().unwrap().len(), 0);
    desk.run(&other, &["forget", "ada", "--yes"]).fails(refused(ErrorCode::UnknownSubject), &["ada"]);
    let viewer = desk.key("acme", "viewer");
    desk.run(&viewer, &["forget", "ada", "--yes"]).fails(refused(ErrorCode::Forbidden), &["viewer"]);
    desk.run(&acme, &["admin", "key", "list"]).fails(refused(ErrorCode::Forbidden), &["member"]);

    let prefix = viewer.split('.').next().unwrap();
    desk.run(&desk.administrator(), &["admin", "key", "revoke", prefix]).succeeds();
    desk.run(&viewer, &["subjects"]).fails(refused(ErrorCode::Unauthenticated), &["revoked"]);
}

#[test]
fn a_rotated_key_is_told_once_and_opens_the_same() {
    let desk = Desk::start(PROGRAM, &[]);
    let (old, admin) = (desk.key("acme", "member"), desk.administrator());
    let prefix = old.split('.').next().unwrap();
    let rotated = desk.run(&admin, &["admin", "key", "rotate", prefix, "--overlap-hours", "0", "--json"]).json();
    desk.run(&old, &["subjects"]).fails(refused(ErrorCode::Unauthenticated), &["expired"]);
    desk.run(rotated["token"].as_str().unwrap(), &["subjects"]).succeeds();
    let listed = desk.run(&admin, &["admin", "key", "list", "--json"]).stdout();
    let secret = rotated["token"].as_str().unwrap().split('.').nth(1).unwrap();
    assert!(listed.contains(rotated["prefix"].as_str().unwrap()) && !listed.contains(secret), "{listed}");
}

#[test]
fn a_server_that_nobody_vouches_for_is_not_spoken_to() {
    let desk = Desk::start(PROGRAM, &[]);
    let unreachable = Exit::Unreachable.code().into();
    desk.run_by(&mut Command::new(PROGRAM), "token", &["subjects"]).fails(unreachable, &[]);
}

#[test]
fn without_tls_nobody_listens_off_this_machine() {
    let folder = TempDir::new().unwrap();
    let args = ["coordinator", "--listen", "0.0.0.0:0"];
    let ran = Command::new(PROGRAM).arg("--state").arg(folder.path()).args(args).output().unwrap();
    Ran::of(ran, &args).fails(Exit::Insecure.code().into(), &["tls_cert"]);
}
