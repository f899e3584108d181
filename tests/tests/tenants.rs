//! A coordinator that others call, over TLS, with keys of its tenants.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use likeness_cli::exit::Exit;
use likeness_proto::v1::ErrorCode;
use likeness_tests::{Ran, photo_folder};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_likeness-under-test");

/// A coordinator on all addresses, whose certificate an authority of its own signed for `localhost`.
struct Desk {
    folder: TempDir,
    process: Child,
    server: String,
}

impl Desk {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join("cert.pem"), cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), signing_key.serialize_pem()).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("--state").arg(folder.path().join("state")).args([
            "coordinator",
            "--json",
            "--listen",
            "0.0.0.0:0",
        ]);
        command.env("LIKENESS__TLS_CERT", folder.path().join("cert.pem"));
        command.env("LIKENESS__TLS_KEY", folder.path().join("key.pem"));
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port: u16 = line.trim().trim_matches('"').rsplit(':').next().unwrap().parse().unwrap();
        Self { folder, process, server: format!("https://localhost:{port}") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `likeness ARGS…` with a token.
    fn run(&self, token: &str, args: &[&str]) -> Ran {
        self.run_by(Command::new(PROGRAM).env("LIKENESS__TLS_CA", self.path("cert.pem")), token, args)
    }

    fn run_by(&self, command: &mut Command, token: &str, args: &[&str]) -> Ran {
        command.arg("--state").arg(self.path("client")).args(["--server", &self.server]).args(args);
        command.env("LIKENESS__TOKEN", token).env("LIKENESS__RETRY_SECONDS", "2").stdin(Stdio::null());
        Ran::of(command.output().unwrap(), args)
    }

    fn administrator(&self) -> String {
        std::fs::read_to_string(self.path("state/token")).unwrap().trim().to_owned()
    }

    fn key(&self, tenant: &str, role: &str) -> String {
        let admin = self.administrator();
        self.run(&admin, &["admin", "tenant", "create", tenant]).succeeds();
        let made = self.run(&admin, &["admin", "key", "create", "--tenant", tenant, "--role", role, "--json"]).json();
        made["token"].as_str().unwrap().to_owned()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn refused(code: ErrorCode) -> i32 {
    Exit::Refused(code).code().into()
}

#[test]
fn tenants_call_over_tls_and_see_their_own() {
    let desk = Desk::start();
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
    let desk = Desk::start();
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
    let desk = Desk::start();
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
