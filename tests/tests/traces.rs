//! What a collector hears of a job, over OTLP/gRPC: one trace from the client's errand to the last avatar, and beside it those of the
//! steps that the trainer's pack makes for many.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use likeness_tests::{Collector, Ran, Sandbox, Span, photo_folder};

const PROGRAM: &str = env!("CARGO_BIN_EXE_likeness-under-test");
const CONSENT: [&str; 6] = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"];

fn traced(mut command: Command, endpoint: &str) -> Command {
    command.env("LIKENESS__TRACING_OTLP_ENDPOINT", endpoint);
    command
}

/// Submits a job of two avatars; its id.
fn submit(sandbox: &Sandbox, endpoint: &str, subject: &str, learning: &[&str]) -> String {
    let folder = photo_folder(&sandbox.path(subject), "subject-01", 3);
    let prompts = sandbox.path("prompts.toml");
    std::fs::write(&prompts, "prompts = [\"a photo of {subject}\", \"pixel art of {subject}\"]\nsteps = 3").unwrap();
    let what = ["submit", "--json", folder.to_str().unwrap(), "--subject", subject, "--init", "person"];
    let how = ["--prompts", prompts.to_str().unwrap()];
    let args = [&what[..], &how, learning, &CONSENT].concat();
    let ran = traced(sandbox.command(&args), endpoint).output().unwrap();
    Ran::of(ran, &args).json()["id"].as_str().unwrap().to_owned()
}

/// Every span of a trace as the way from its root to it, and how many there are of each.
fn ways(spans: &[Span], trace: &str) -> BTreeMap<String, usize> {
    let of: BTreeMap<&str, &Span> =
        spans.iter().filter(|span| span.trace == trace).map(|span| (&*span.id, span)).collect();
    let mut ways = BTreeMap::new();
    for span in of.values() {
        let (mut way, mut at) = (Vec::new(), Some(span));
        while let Some(span) = at {
            let kind = if span.kind == "internal" { String::new() } else { format!(" ({})", span.kind) };
            way.push(format!("{}{kind}", span.name.trim_start_matches("likeness.v1.")));
            assert!(span.parent.is_empty() || of.contains_key(&*span.parent), "{span:?} is the child of nobody");
            at = of.get(&*span.parent);
        }
        way.reverse();
        *ways.entry(way.join(" > ")).or_default() += 1;
    }
    ways
}

fn of_job<'a>(spans: &'a [Span], job: &str) -> &'a str {
    let is_submit =
        |span: &&Span| span.attributes.get("likeness.job.id").is_some_and(|id| id == job) && span.kind == "server";
    &spans.iter().find(is_submit).unwrap_or_else(|| panic!("nothing tells of {job}")).trace
}

#[test]
fn a_job_is_one_trace_from_its_submission_to_its_last_avatar() {
    let (collector, mut sandbox) = (Collector::start(), Sandbox::stopped(PROGRAM));
    sandbox.up_by(traced(sandbox.up_command(&[]), &collector.endpoint()));
    let learning = ["--steps", "4", "--batch", "2", "--evaluate-every", "2", "--checkpoint-every", "3"];
    let job = submit(&sandbox, &collector.endpoint(), "lovelace", &learning);
    assert_eq!(sandbox.watch(&job).end().1, 0);
    assert!(sandbox.drain().success());

    let spans = collector.spans();
    let trace = of_job(&spans, &job);
    let front = |method: &str| format!("submit > Avatars/{method} (client) > Avatars/{method} (server)");
    let submitted = front("SubmitJob");
    let mut wanted: BTreeMap<String, usize> = [
        ("submit".to_owned(), 1),
        ("submit > Avatars/PutSubject (client)".to_owned(), 1),
        (front("PutSubject"), 1),
        (format!("{} > store begin_upload", front("PutSubject")), 1),
        (format!("{} > store commit_upload", front("PutSubject")), 1),
        ("submit > Avatars/SubmitJob (client)".to_owned(), 1),
        (submitted.clone(), 1),
        (format!("{submitted} > store submit"), 1),
    ]
    .into();
    let parts: [(&str, &[(&str, usize)]); 3] = [
        (
            "train",
            &[
                ("load", 1),
                ("encode", 1),
                ("learn", 1),
                ("learn > evaluate", 3),
                ("learn > step", 1),
                ("checkpoint", 1),
                ("publish", 1),
            ],
        ),
        ("render", &[("pull", 1), ("denoise", 2), ("decode", 2), ("write", 2)]),
        ("assemble", &[("pull", 5), ("paint", 1), ("write", 1)]),
    ];
    for (task, parts) in parts {
        let task = format!("{submitted} > {task} (consumer)");
        let call = format!("{task} > Workers/Complete (client)");
        let answer = format!("{call} > Workers/Complete (server)");
        wanted.extend([(format!("{answer} > store outputs"), 1), (format!("{answer} > store complete"), 1)]);
        wanted.extend(parts.iter().map(|(part, count)| (format!("{task} > {part}"), *count)));
        wanted.extend([(task, 1), (call, 1), (answer, 1)]);
    }
    assert_eq!(ways(&spans, trace), wanted);

    for span in spans.iter().filter(|span| span.kind == "client" || span.kind == "server") {
        let told = |key: &str| span.attributes.get(key).map(String::as_str);
        assert_eq!(told("rpc.system.name"), Some("grpc"), "{span:?}");
        assert_eq!(told("rpc.method"), Some(span.name.as_str()), "{span:?}");
        assert_eq!((told("rpc.response.status_code"), span.failed), (Some("OK"), false), "{span:?}");
    }
    let services: BTreeSet<&str> = spans.iter().filter(|span| span.trace == trace).map(|span| &*span.service).collect();
    assert_eq!(services, ["likeness-client", "likeness-up"].into());
    let named = spans.iter().find(|span| format!("{span:?}").contains("lovelace"));
    assert!(named.is_none(), "{named:?} names the subject");
}

#[test]
fn steps_of_many_are_traces_of_their_own_and_no_id_of_one_job_stands_in_anothers() {
    let (collector, mut sandbox) = (Collector::start(), Sandbox::stopped(PROGRAM));
    let mut command = traced(sandbox.up_command(&[]), &collector.endpoint());
    command.env("LIKENESS__TRAINER_SLOTS", "2");
    sandbox.up_by(command);
    let learning = ["--steps", "160", "--batch", "1", "--evaluate-every", "200"];
    let jobs = ["ada", "bob"].map(|subject| submit(&sandbox, &collector.endpoint(), subject, &learning));
    for job in &jobs {
        assert_eq!(sandbox.watch(job).end().1, 0);
    }
    assert!(sandbox.drain().success());

    let spans = collector.spans();
    let shared: BTreeMap<_, _> = spans
        .iter()
        .filter(|span| span.name == "pack step")
        .map(|span| ((span.trace.clone(), span.id.clone()), span))
        .collect();
    let together = |span: &&&Span| span.attributes["likeness.pack.subjects"] == "2";
    assert!(shared.values().any(|span| together(&span)), "the jobs never met: {shared:#?}");
    assert!(shared.values().all(|span| span.links.is_empty() && span.parent.is_empty()), "{shared:#?}");
    let traces = jobs.each_ref().map(|job| of_job(&spans, job));
    for (job, trace) in jobs.iter().zip(traces) {
        let mut steps = Vec::new();
        for span in spans.iter().filter(|span| span.trace == trace) {
            for link in &span.links {
                assert!(shared.contains_key(link), "{span:?} is linked to what is no step of the pack");
            }
            if span.name == "step" {
                assert_eq!(span.links.len(), 1, "{span:?}");
                steps.push(span.attributes["likeness.step"].parse::<u32>().unwrap());
            }
        }
        steps.sort_unstable();
        assert_eq!(steps, [0, 50, 100, 150]);
        for span in spans.iter().filter(|span| span.trace != trace) {
            let text = format!("{span:?}");
            assert!(!text.contains(job.as_str()) && !text.contains(trace), "{text} knows of {job}");
        }
    }
}

#[test]
fn a_collector_that_never_answers_or_is_not_there_keeps_nobody_waiting() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    thread::spawn(move || silent.incoming().map_while(Result::ok).collect::<Vec<_>>());
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (endpoint, protocol) in [(address, "grpc"), (address, "http/protobuf"), (gone, "grpc")] {
        let endpoint = format!("http://{endpoint}");
        let mut sandbox = Sandbox::stopped(PROGRAM);
        let mut command = traced(sandbox.up_command(&[]), &endpoint);
        command.env("LIKENESS__OTLP_PROTOCOL", protocol).env("LIKENESS__METRICS_OTLP_ENDPOINT", &endpoint);
        sandbox.up_by(command);
        let job = submit(&sandbox, &endpoint, "lovelace", &["--steps", "4", "--batch", "2"]);
        assert_eq!(sandbox.watch(&job).end().1, 0, "{protocol}");
        let began = Instant::now();
        assert!(sandbox.drain().success(), "{protocol}");
        // Its own grace is 2 s; the drain itself is done at once.
        assert!(began.elapsed() < Duration::from_secs(10), "{protocol}: {:?}", began.elapsed());
    }
}
