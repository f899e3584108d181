//! Workers that a coordinator knows by their certificates alone.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::path::{Path, PathBuf};

use likeness_cli::exit::Exit;
use likeness_proto::v1::ErrorCode;
use likeness_tests::{Desk, Role, avatars, photo_folder};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_likeness-under-test");

/// Signs certificates of workers, and keeps them as files.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A coordinator that takes its certificates.
    fn desk(&self) -> Desk {
        let settings = [
            ("LIKENESS__TLS_CLIENT_CA", &*self.path("ca.pem")),
            ("LIKENESS__TRUST_DOMAIN", Path::new("fleet.example")),
        ];
        Desk::start(PROGRAM, &settings)
    }

    /// Signs that the holder of the files `FILE.pem` and `FILE.key` is the worker of this name in this trust domain.
    fn sign(&self, file: &str, domain: &str, name: &str) -> (PathBuf, PathBuf) {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::new(vec![]).unwrap());
        let uri = format!("spiffe://{domain}/likeness/worker/{name}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        let (cert_file, key_file) = (self.path(&format!("{file}.pem")), self.path(&format!("{file}.key")));
        std::fs::write(&cert_file, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        (cert_file, key_file)
    }

    /// A worker with a certificate of this name in this trust domain.
    fn worker(&self, desk: &Desk, args: &[&str], domain: &str, name: &str) -> Role {
        let (cert_file, key_file) = self.sign(name, domain, name);
        desk.worker(args, &[("LIKENESS__TLS_CLIENT_CERT", &cert_file), ("LIKENESS__TLS_CLIENT_KEY", &key_file)])
    }
}

#[test]
fn a_job_is_done_by_workers_that_have_certificates_and_no_token() {
    let authority = Authority::new();
    let desk = authority.desk();
    let _trainer = authority.worker(&desk, &["trainer", "--slots", "1"], "fleet.example", "trainer-7");
    assert!(desk.coordinator.says("worker registered").contains("trainer-7"), "its name is that in its certificate");
    let _sampler = authority.worker(&desk, &["sampler"], "fleet.example", "sampler-7");
    assert!(desk.coordinator.says("worker registered").contains("sampler-7"));

    let acme = desk.key("acme", "member");
    let photos = photo_folder(&desk.path("photos"), "subject-02", 4);
    let prompts = desk.path("prompts.toml");
    std::fs::write(&prompts, "steps = 4\nprompts = [\"a photo of {subject}\"]").unwrap();
    let (photos, prompts) = (photos.to_str().unwrap(), prompts.to_str().unwrap());
    let subject = ["submit", photos, "--json", "--subject", "bruno", "--init", "person", "--prompts", prompts];
    let training = ["--steps", "8", "--batch", "2", "--evaluate-every", "4"];
    let consent = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"];
    let job = desk.run(&acme, &[&subject[..], &training, &consent].concat()).json();
    let job = job["id"].as_str().unwrap();

    let watched = desk.run(&acme, &["watch", job, "--json"]).succeeds();
    let last: Value = watched.stdout().lines().last().map(|line| serde_json::from_str(line).unwrap()).unwrap();
    assert_eq!(last["state"], "succeeded", "{last:#}");
    let out = desk.path("out");
    desk.run(&acme, &["fetch", job, "--out", out.to_str().unwrap()]).succeeds();
    assert_eq!(avatars(&out).len(), 1);
}

#[test]
fn a_worker_of_another_trust_domain_ends_and_says_why() {
    let authority = Authority::new();
    let desk = authority.desk();
    let mut sampler = authority.worker(&desk, &["sampler"], "elsewhere.example", "sampler-8");
    let (code, said) = sampler.ended();
    assert_eq!(code, Some(Exit::Refused(ErrorCode::Unauthenticated).code().into()), "{said}");
    for word in ["spiffe://elsewhere.example/likeness/worker/sampler-8", "spiffe://fleet.example/likeness/worker/NAME"]
    {
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn a_worker_whose_certificate_is_renewed_comes_again_by_the_new_one() {
    let authority = Authority::new();
    let desk = authority.desk();
    let mut sampler = authority.worker(&desk, &["sampler"], "fleet.example", "sampler-7");
    assert!(desk.coordinator.says("worker registered").contains("sampler-7"));
    std::fs::write(authority.path("sampler-7.pem"), "half").unwrap();
    sampler.says("replaced by what is not used");
    authority.sign("sampler-7", "fleet.example", "sampler-8");
    assert!(desk.coordinator.says("worker registered").contains("sampler-8"));
    sampler.signal("TERM");
    assert_eq!(sampler.ended().0, Some(0));
}

#[test]
fn a_worker_whose_token_is_rotated_goes_on_by_the_new_one() {
    let authority = Authority::new();
    let desk = authority.desk();
    let (admin, token) = (desk.administrator(), desk.path("worker-token"));
    let make = || desk.run(&admin, &["admin", "key", "create", "--role", "worker", "--json"]).json();
    let (old, new) = (make(), make());
    std::fs::write(&token, old["token"].as_str().unwrap()).unwrap();
    let sampler = desk.worker(&["sampler"], &[("LIKENESS__TOKEN_FILE", &token)]);
    desk.coordinator.says("worker registered");
    std::fs::write(&token, new["token"].as_str().unwrap()).unwrap();
    sampler.says("credentials were replaced");
    desk.coordinator.says("worker registered");
    desk.run(&admin, &["admin", "key", "revoke", old["token"].as_str().unwrap().split('.').next().unwrap()]).succeeds();
}

#[test]
fn a_coordinator_shows_the_certificate_that_lies_there_now() {
    let authority = Authority::new();
    let desk = authority.desk();
    let admin = desk.administrator();
    desk.run(&admin, &["list"]).succeeds();
    let former = desk.path("former.pem");
    std::fs::copy(desk.path("cert.pem"), &former).unwrap();
    let renewed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(desk.path("cert.pem"), renewed.cert.pem()).unwrap();
    std::fs::write(desk.path("key.pem"), renewed.signing_key.serialize_pem()).unwrap();
    desk.coordinator.says("certificates were replaced");
    desk.run(&admin, &["list"]).succeeds();
    let mut trusting = std::process::Command::new(PROGRAM);
    let ran = desk.run_by(trusting.env("LIKENESS__TLS_CA", &former), &admin, &["list"]);
    ran.fails(Exit::Unreachable.code().into(), &[]);
}
