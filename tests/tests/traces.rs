//! What a collector hears of a job, over OTLP/gRPC: one trace from the client's errand to the last avatar, and beside it those of the
//! steps that the trainer's pack makes for many.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use likeness_tests::{Collector, Ran, Sandbox, Span, Trainer, photo_folder};

const PROGRAM: &str = env!("CARGO_BIN_EXE_likeness-under-test");
const CONSENT: [&str; 6] = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"];

fn traced(mut command: Command, endpoint: &str) -> Command {
    command.env("LIKENESS__TRACING_OTLP_ENDPOINT", endpoint);
    command
}

/// Submits a job of two avatars; its id.
fn submit(sandbox: &Sandbox, endpoint: &str, subject: &str, learning: &[&str]) -> String {
    submit_by(sandbox, |args| traced(sandbox.command(args), endpoint), subject, learning)
}

/// The same by a command of the caller's.
fn submit_by(sandbox: &Sandbox, command: impl Fn(&[&str]) -> Command, subject: &str, learning: &[&str]) -> String {
    let folder = photo_folder(&sandbox.path(subject), "subject-01", 3);
    let prompts = sandbox.path("prompts.toml");
    std::fs::write(&prompts, "prompts = [\"a photo of {subject}\", \"pixel art of {subject}\"]\nsteps = 3").unwrap();
    let what = ["submit", "--json", folder.to_str().unwrap(), "--subject", subject, "--init", "person"];
    let how = ["--prompts", prompts.to_str().unwrap()];
    let args = [&what[..], &how, learning, &CONSENT].concat();
    Ran::of(command(&args).output().unwrap(), &args).json()["id"].as_str().unwrap().to_owned()
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

/// A job of a tenant, and whatever could tell somebody else of it.
struct Secrets<'a> {
    tenant: &'a str,
    trace: &'a str,
    told: Vec<&'a str>,
}

impl<'a> Secrets<'a> {
    /// Names, ids and the key that the job was submitted with; ids of its trace, of its tasks, and of every span in it.
    fn of(spans: &'a [Span], (tenant, job, subject, key): (&'a str, &'a str, &'a str, &'a str)) -> Self {
        let trace = of_job(spans, job);
        let own = spans.iter().filter(|span| span.trace == trace);
        let ids = own.flat_map(|span| [Some(&*span.id), span.attributes.get("likeness.task.id").map(String::as_str)]);
        let (prefix, secret) = key.split_once('.').unwrap();
        let told = [tenant, job, subject, prefix, secret, trace].into_iter().chain(ids.flatten()).collect();
        Self { tenant, trace, told }
    }

    /// What of it stands in a span.
    fn found_in(&self, span: &Span) -> Option<&'a str> {
        let text = format!("{span:?}");
        self.told.iter().find(|told| text.contains(**told)).copied()
    }
}

/// A key of a tenant, which is made.
fn key(sandbox: &Sandbox, tenant: &str) -> String {
    sandbox.run(&["admin", "tenant", "create", tenant]).succeeds();
    let made = sandbox.run(&["admin", "key", "create", "--tenant", tenant, "--role", "member", "--json"]).json();
    made["token"].as_str().unwrap().to_owned()
}

#[test]
fn tenants_whose_subjects_share_their_steps_are_told_nothing_of_each_other() {
    let (collector, mut sandbox) = (Collector::start(), Sandbox::stopped(PROGRAM));
    let mut command = traced(sandbox.up_command(&[]), &collector.endpoint());
    command.env("LIKENESS__TRAINER_SLOTS", "2");
    sandbox.up_by(command);
    let learning = ["--steps", "160", "--batch", "1", "--evaluate-every", "200"];
    let people = [("acme", "lovelace"), ("zenith", "babbage")];
    let keys = people.map(|(tenant, _)| key(&sandbox, tenant));
    let by = |key: &str, args: &[&str]| {
        let mut command = traced(sandbox.command(args), &collector.endpoint());
        command.env("LIKENESS__TOKEN", key);
        command
    };
    let jobs: Vec<String> = people
        .iter()
        .zip(&keys)
        .map(|((_, subject), key)| submit_by(&sandbox, |args| by(key, args), subject, &learning))
        .collect();
    for (job, key) in jobs.iter().zip(&keys) {
        Ran::of(by(key, &["watch", job]).output().unwrap(), &["watch", job]).succeeds();
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
    let people = [0, 1].map(|of| Secrets::of(&spans, (people[of].0, &jobs[of], people[of].1, &keys[of])));
    for own in &people {
        let mut steps = Vec::new();
        for span in spans.iter().filter(|span| span.trace == own.trace) {
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
        for span in spans.iter().filter(|span| span.trace != own.trace) {
            assert_eq!(own.found_in(span), None, "{span:?} knows of {}", own.tenant);
        }
    }
}

/// The span of this name that `of` is within.
fn within<'a>(spans: &'a [Span], of: &Span, name: &str) -> Option<&'a Span> {
    let above = spans.iter().find(|span| span.trace == of.trace && span.id == of.parent)?;
    if above.name == name { Some(above) } else { within(spans, above, name) }
}

/// What a collector hears of two subjects of one pack on two nodes, the first of which leads.
fn on_two_nodes(placement: &str) -> (Vec<Span>, Vec<String>) {
    let (collector, mut sandbox) = (Collector::start(), Sandbox::stopped(PROGRAM));
    let mut command = traced(sandbox.command(&["coordinator", "--json"]), &collector.endpoint());
    command.env("LIKENESS__LISTEN", "127.0.0.1:0");
    sandbox.coordinator_by(command);
    let leader = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let node = |index: usize| {
        let (endpoint, leader) = (collector.endpoint(), format!("--group-leader={leader}"));
        let args = [&leader, "--group-size=2", &format!("--group-index={index}")];
        Trainer::start_with(&sandbox, &args, &[("PLACEMENT", placement), ("TRACING_OTLP_ENDPOINT", &endpoint)])
    };
    let mut leads = node(0);
    leads.until_it_says("registered");
    let learning = ["--steps", "120", "--batch", "2", "--evaluate-every", "60", "--resolution", "64"];
    let jobs = ["lovelace", "babbage"].map(|subject| submit(&sandbox, &collector.endpoint(), subject, &learning));
    leads.until_it_says_all(["learning rate scaled", "learning rate scaled"]); // both are in the pack when rank 1 comes
    let follows = node(1);
    for job in &jobs {
        sandbox.watch(job).until("its subject was learned", |job| job["subjects"][0]["state"] == "rendering");
    }
    for node in [leads, follows] {
        node.signal("TERM");
        let (code, said) = node.end();
        assert_eq!(code, Some(0), "{said}");
    }
    assert!(sandbox.drain().success());
    (collector.spans(), jobs.to_vec())
}

#[test]
fn what_other_ranks_do_of_a_step_stands_in_the_packs_trace() {
    let (spans, jobs) = on_two_nodes("split");
    let shared: Vec<&Span> = spans.iter().filter(|span| span.name == "pack step").collect();
    assert!(shared.iter().any(|step| step.attributes["likeness.pack.subjects"] == "2"), "{shared:#?}");
    for step in &shared {
        let own = ways(&spans, &step.trace);
        let (share, sum) = ("pack step > share".to_owned(), "pack step > share > all reduce".to_owned());
        assert_eq!(own, [("pack step".to_owned(), 1), (share, 2), (sum, 2)].into());
        let ranks = spans.iter().filter(|span| span.trace == step.trace && span.name == "share");
        let ranks: BTreeSet<&str> = ranks.map(|span| &*span.attributes["likeness.rank"]).collect();
        assert_eq!(ranks, ["0", "1"].into());
    }
    for job in &jobs {
        assert_eq!(linked_steps(&spans, job).len(), 3);
    }
}

#[test]
fn steps_that_ranks_make_by_themselves_are_told_of_too() {
    let (spans, jobs) = on_two_nodes("spread");
    for job in &jobs {
        let steps = linked_steps(&spans, job);
        assert_eq!(steps.keys().copied().collect::<Vec<_>>(), [0, 50, 100]);
        for shared in steps.values() {
            // Between two stretches the ranks make one step together.
            let Some(share) = within(&spans, shared, "share") else {
                assert_eq!(shared.attributes["likeness.pack.subjects"], "2", "{shared:?} is no rank's");
                continue;
            };
            let whole = within(&spans, share, "pack stretch").unwrap_or_else(|| panic!("{share:?} is of no stretch"));
            assert!(whole.parent.is_empty() && whole.links.is_empty(), "{whole:?}");
        }
        let trace = of_job(&spans, job);
        let evaluations = spans.iter().filter(|span| span.trace == trace && span.name == "evaluate");
        let steps: BTreeSet<&str> = evaluations.map(|span| &*span.attributes["likeness.step"]).collect();
        assert_eq!(steps, ["0", "60", "120"].into());
    }
    let shares = spans.iter().filter(|span| span.name == "share" && within(&spans, span, "pack stretch").is_some());
    let ranks: BTreeSet<&str> = shares.map(|share| &*share.attributes["likeness.rank"]).collect();
    assert_eq!(ranks, ["0", "1"].into(), "each has one of the subjects");
}

/// The steps that a job's trace tells of, and those of the pack that they are linked to.
fn linked_steps<'a>(spans: &'a [Span], job: &str) -> BTreeMap<u32, &'a Span> {
    let trace = of_job(spans, job);
    let own = spans.iter().filter(|span| span.trace == trace && span.name == "step");
    own.map(|span| {
        let [link] = &span.links[..] else { panic!("{span:?} has not one link") };
        let shared = spans.iter().find(|span| (&span.trace, &span.id) == (&link.0, &link.1));
        let shared = shared.filter(|span| span.name == "pack step").unwrap_or_else(|| panic!("{span:?} leads nowhere"));
        (span.attributes["likeness.step"].parse().unwrap(), shared)
    })
    .collect()
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
