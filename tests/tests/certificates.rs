//! Workers that a coordinator knows by their certificates alone.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use likeness_cli::exit::Exit;
use likeness_proto::Refusal;
use likeness_proto::v1::{self, ErrorCode, ranks_client::RanksClient};
use likeness_tests::{Desk, Role, avatars, photo_folder};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

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

    /// Signs that the holder of the files `FILE.pem` and `FILE.key` is the worker of this name, `TRADE/NAME`, in this trust domain, on this
    /// machine.
    fn sign(&self, file: &str, domain: &str, name: &str) -> (PathBuf, PathBuf) {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::new(vec![]).unwrap());
        let uri = format!("spiffe://{domain}/likeness/{name}");
        let host = SanType::DnsName("localhost".try_into().unwrap());
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap()), host];
        let (cert_file, key_file) = (self.path(&format!("{file}.pem")), self.path(&format!("{file}.key")));
        std::fs::write(&cert_file, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        (cert_file, key_file)
    }

    /// A worker with a certificate of this name in this trust domain.
    fn worker(&self, desk: &Desk, args: &[&str], domain: &str, name: &str) -> Role {
        let (cert_file, key_file) = self.sign(name, domain, &format!("worker/{name}"));
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
    a_job_is_done(&desk);
}

#[track_caller]
fn a_job_is_done(desk: &Desk) {
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
    authority.sign("sampler-7", "fleet.example", "worker/sampler-8");
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

/// A group of two trainers that meet at `localhost`.
struct Meeting<'a> {
    desk: &'a Desk,
    authority: &'a Authority,
    port: String,
}

impl<'a> Meeting<'a> {
    fn new(desk: &'a Desk, authority: &'a Authority) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { desk, authority, port: port.to_string() }
    }

    /// Its node of this index, as whom `signed_by` says that it is.
    fn node(&self, index: &str, signed_by: &Authority, name: &str) -> Role {
        let (cert, key) = signed_by.sign(&name.replace('/', "-"), "fleet.example", name);
        let leader = format!("localhost:{}", self.port);
        let place = ["trainer", "--group-leader", &leader, "--group-size", "2", "--group-index", index, "--slots", "1"];
        let settings = [
            ("LIKENESS__TLS_CLIENT_CERT", &*cert),
            ("LIKENESS__TLS_CLIENT_KEY", &*key),
            ("LIKENESS__TLS_CLIENT_CA", &*self.authority.path("ca.pem")),
            ("LIKENESS__TRUST_DOMAIN", Path::new("fleet.example")),
            ("LIKENESS__PLACEMENT", Path::new("split")),
        ];
        self.desk.worker(&place, &settings)
    }
}

#[test]
fn trainers_of_a_group_know_each_other_by_their_certificates() {
    let authority = Authority::new();
    let desk = authority.desk();
    let meeting = Meeting::new(&desk, &authority);
    let leader = meeting.node("0", &authority, "trainer/first");
    let _follower = meeting.node("1", &authority, "trainer/second");
    leader.says("ranks begin to follow");
    let _sampler = authority.worker(&desk, &["sampler"], "fleet.example", "sampler-7");
    a_job_is_done(&desk);
}

#[test]
fn nobody_but_a_trainer_of_the_fleet_joins_a_group() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let desk = authority.desk();
    let meeting = Meeting::new(&desk, &authority);
    let leader = meeting.node("0", &authority, "trainer/first");
    leader.says("leading a group");

    for name in ["sampler/second", "worker/second"] {
        let (code, said) = meeting.node("1", &authority, name).ended();
        assert_eq!(code, Some(Exit::Refused(ErrorCode::Forbidden).code().into()), "{said}");
        assert!(said.contains(&format!("the certificate is of {name}")), "{said}");
    }
    let outside = meeting.node("1", &stranger, "trainer/second");
    outside.says("not in the group yet");
    assert!(leader.says("a connection was lost before it was spoken to").contains("invalid peer certificate"));
    let refusal = join_without_a_certificate(&meeting);
    assert_eq!(refusal.code, ErrorCode::Unauthenticated, "{refusal}");
    assert!(refusal.message.contains("no certificate"), "{refusal}");
    assert!(!leader.said().iter().any(|line| line.contains("ranks begin to follow")));
}

fn join_without_a_certificate(meeting: &Meeting<'_>) -> Refusal {
    let authority = Certificate::from_pem(std::fs::read(meeting.authority.path("ca.pem")).unwrap());
    let leader = Endpoint::from_shared(format!("https://localhost:{}", meeting.port)).unwrap();
    let leader = leader.tls_config(ClientTlsConfig::new().ca_certificate(authority)).unwrap();
    let joined = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let nothing = tokio_stream::iter(Vec::<v1::JoinRequest>::new());
        RanksClient::new(leader.connect().await.unwrap()).join(nothing).await
    });
    Refusal::read(&joined.err().unwrap())
}
