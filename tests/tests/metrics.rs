//! What a service tells of itself on `/metrics`, read as Prometheus reads it.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use likeness_cli::exit::Exit;
use likeness_proto::v1::ErrorCode;
use likeness_tests::{Sandbox, photo_folder};

const PROGRAM: &str = env!("CARGO_BIN_EXE_likeness-under-test");
const CONSENT: [&str; 6] = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"];
const QUICK: [&str; 6] = ["--steps", "4", "--batch", "2", "--init", "person"];

/// An address that nobody listens on.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Head and body of the answer.
fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// Every series and its value.
fn scrape(address: SocketAddr) -> BTreeMap<String, f64> {
    let (head, body) = get(address, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    let series = body.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    series
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.into(), value.parse().unwrap()))
        .collect()
}

/// The sum over all series of a name whose labels hold each of `labels`.
fn sum(series: &BTreeMap<String, f64>, name: &str, labels: &[&str]) -> Option<f64> {
    let of = |key: &str| key.split('{').next() == Some(name) && labels.iter().all(|label| key.contains(label));
    let found: Vec<f64> = series.iter().filter(|(key, _)| of(key)).map(|(_, value)| *value).collect();
    (!found.is_empty()).then(|| found.iter().sum())
}

/// The series once the store was counted after both workers came.
fn settled(address: SocketAddr) -> BTreeMap<String, f64> {
    let began = Instant::now();
    loop {
        let series = scrape(address);
        if sum(&series, "likeness_workers", &[]) == Some(2.0) {
            return series;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the workers are not counted: {series:#?}");
    }
}

fn up(sandbox: &mut Sandbox) -> SocketAddr {
    let metrics = free();
    let mut command = sandbox.up_command(&[]);
    command.env("LIKENESS__METRICS_LISTEN", metrics.to_string());
    sandbox.up_by(command);
    metrics
}

#[test]
fn every_number_of_a_service_is_told_after_a_job_and_none_names_anybody() {
    let mut sandbox = Sandbox::stopped(PROGRAM);
    let metrics = up(&mut sandbox);
    assert_eq!(get(metrics, "/healthz").1, "ok\n");
    let folder = photo_folder(&sandbox.path("photos"), "subject-01", 3);
    let prompts = sandbox.path("prompts.toml");
    std::fs::write(&prompts, "prompts = [\"a photo of {subject}\", \"pixel art of {subject}\"]\nsteps = 3").unwrap();
    let subject = [folder.to_str().unwrap(), "--subject", "lovelace", "--prompts", prompts.to_str().unwrap()];
    let job = sandbox.submit(&[&subject[..], &QUICK, &CONSENT].concat());
    assert_eq!(sandbox.watch(&job).end().1, 0);
    sandbox
        .run(&["show", "01890000-0000-7000-8000-000000000000"])
        .fails(Exit::Refused(ErrorCode::UnknownJob).code().into(), &["no job"]);

    let series = settled(metrics);
    let told = |name: &str, labels: &[&str]| {
        sum(&series, name, labels).unwrap_or_else(|| panic!("no {name} with {labels:?} in {series:#?}"))
    };
    assert_eq!(told("likeness_build_info", &["role=\"up\"", "version="]), 1.0);
    assert!(told("process_resident_memory_bytes", &[]) > 1e6);
    assert!(told("process_cpu_seconds_total", &[]) > 0.0);
    assert!(told("process_start_time_seconds", &[]) > 1.7e9);
    for operation in ["operation=\"put\"", "operation=\"get\""] {
        assert!(told("likeness_bucket_operation_duration_seconds_count", &[operation, "outcome=\"ok\""]) > 0.0);
    }

    let complete = ["rpc_method=\"likeness.v1.Workers/Complete\"", "rpc_response_status_code=\"OK\""];
    assert_eq!(told("rpc_server_call_duration_seconds_count", &complete), 3.0);
    assert_eq!(told("rpc_client_call_duration_seconds_count", &complete), 3.0);
    let put = ["rpc_method=\"likeness.v1.Avatars/PutSubject\"", "rpc_response_status_code=\"OK\""];
    assert_eq!(told("rpc_server_call_duration_seconds_count", &put), 1.0);
    let watched = ["rpc_method=\"likeness.v1.Avatars/WatchJob\"", "rpc_response_status_code=\"OK\""];
    assert!(told("rpc_server_call_duration_seconds_count", &watched) >= 1.0);
    assert_eq!(told("likeness_refusals_total", &["code=\"unknown_job\""]), 1.0);
    assert!(told("likeness_store_operation_duration_seconds_count", &["operation=\"claim\"", "outcome=\"ok\""]) > 0.0);
    for kind in ["kind=\"train\"", "kind=\"render\"", "kind=\"assemble\""] {
        assert_eq!(told("likeness_attempts_total", &[kind, "outcome=\"completed\""]), 1.0);
        for class in ["class=\"standard\"", "class=\"heavy\""] {
            assert!(told("likeness_queue_tasks", &[kind, class]) >= 0.0);
            assert!(told("likeness_queue_oldest_wait_seconds", &[kind, class]) >= 0.0);
        }
        assert!(told("likeness_leases", &[kind]) >= 0.0);
    }
    assert!(told("likeness_jobs", &["state=\"running\""]) >= 0.0);
    assert_eq!(told("likeness_jobs_ended_total", &["state=\"succeeded\""]), 1.0);
    assert_eq!(told("likeness_workers", &[]), 2.0);
    assert!(told("likeness_watches", &[]) >= 0.0);
    assert!(told("likeness_upload_bytes_total", &[]) > 1000.0);
    assert_eq!(told("likeness_audit_broken", &[]), 0.0);
    assert!(told("likeness_audit_entries", &[]) >= 0.0);
    assert!(told("likeness_audit_verified_time_seconds", &[]) > 1.7e9);

    assert_eq!(told("likeness_train_steps_total", &[]), 4.0);
    assert_eq!(told("likeness_train_samples_total", &[]), 8.0);
    assert_eq!(told("likeness_train_step_duration_seconds_count", &[]), 4.0);
    assert!(told("likeness_train_loss", &[]) > 0.0);
    assert_eq!(told("likeness_pack_subjects", &[]), 0.0);
    assert_eq!(told("likeness_pack_slots", &[]), 1.0);
    assert_eq!(told("likeness_ranks", &[]), 1.0);
    assert_eq!(told("likeness_subjects_trained_total", &["outcome=\"max_steps\""]), 1.0);
    assert_eq!(told("likeness_images_total", &[]), 2.0);
    assert_eq!(told("likeness_pictures_under_way", &[]), 0.0);
    assert!(told("likeness_render_step_duration_seconds_count", &[]) >= 3.0);
    assert_eq!(told("likeness_decode_duration_seconds_count", &[]), 2.0);
    assert_eq!(told("likeness_drained", &[]), 0.0);

    for key in series.keys() {
        for name in [job.as_str(), "lovelace", "local", "subject-01"] {
            assert!(!key.contains(name), "{key} names {name}");
        }
    }
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sandbox = Sandbox::stopped(PROGRAM);
    let address = taken.local_addr().unwrap().to_string();
    let mut command = sandbox.up_command(&[]);
    let refused = command.env("LIKENESS__METRICS_LISTEN", &address).output().unwrap();
    likeness_tests::Ran::of(refused, &["up"]).fails(Exit::PortInUse.code().into(), &[&address, "metrics_listen"]);
    sandbox.up();
}
