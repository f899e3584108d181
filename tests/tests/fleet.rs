//! Processes of their own over Postgres and an S3 bucket. `tests/fleet.sh` starts the servers and runs these.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::process::Command;
use std::time::Duration;

use likeness_cli::exit::Exit;
use likeness_proto::v1::ErrorCode;
use likeness_proto::v1::avatars_client::AvatarsClient;
use likeness_proto::v1::{DownloadLink, DownloadRequest};
use likeness_proto::{Bearer, Secret, Sha256};
use likeness_tests::{Fault, FaultyHttp, Fleet, Role, avatars, photo_folder};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_likeness-under-test");

const AVATARS: u64 = 4;

fn submit(fleet: &Fleet, training: &str) -> String {
    submit_as(fleet, "bruno", training)
}

fn submit_as(fleet: &Fleet, name: &str, training: &str) -> String {
    let photos = photo_folder(&fleet.path("photos"), "subject-02", 4);
    let prompts = fleet.path("prompts.toml");
    std::fs::write(
        &prompts,
        "steps = 4\nseeds = [1, 2]\nprompts = [\"a photo of {subject}\", \"{subject} at the beach\"]",
    )
    .unwrap();
    let (photos, prompts) = (photos.to_str().unwrap(), prompts.to_str().unwrap());
    let consent = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"];
    let subject = [photos, "--subject", name, "--init", "person", "--prompts", prompts];
    fleet.submit(&subject.into_iter().chain(training.split(' ')).chain(consent).collect::<Vec<_>>())
}

const QUICK: &str = "--steps 8 --batch 2 --evaluate-every 4 --checkpoint-every 2 --seed 7";

#[track_caller]
fn finished(fleet: &Fleet, job: &str) -> Value {
    let ran = fleet.run(&["watch", job, "--json"]).succeeds();
    let last = ran.stdout().lines().last().map(serde_json::from_str::<Value>).unwrap().unwrap();
    assert_eq!(last["state"], "succeeded", "{last:#}");
    let out = fleet.path("out");
    fleet.run(&["fetch", job, "--out", out.to_str().unwrap()]).succeeds();
    assert_eq!(avatars(&out).len(), 4);
    last
}

/// Asks the S3 server by curl, which signs by itself: `METHOD /PATH?QUERY`, with a body.
fn s3(method: &str, path: &str, body: &str) -> String {
    let var = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run tests/fleet.sh"));
    let user = format!("{}:{}", var("AWS_ACCESS_KEY_ID"), var("AWS_SECRET_ACCESS_KEY"));
    let mut curl = Command::new("curl");
    curl.args(["-fsS", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user, "-X", method]);
    curl.args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
    if !body.is_empty() {
        curl.args(["--data-binary", body]);
    }
    let answer = curl.arg(format!("{}{path}", var("LIKENESS_TEST_S3"))).output().unwrap();
    assert!(answer.status.success(), "{method} {path}: {}", String::from_utf8_lossy(&answer.stderr));
    String::from_utf8(answer.stdout).unwrap()
}

#[test]
#[ignore = "needs Postgres and S3: tests/fleet.sh"]
fn a_forgotten_subject_leaves_no_version_of_anything_in_a_bucket_that_keeps_them() {
    let bucket = format!("/versions-{}", std::process::id());
    s3("PUT", &bucket, "");
    let enabled = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>Enabled</Status></VersioningConfiguration>";
    s3("PUT", &format!("{bucket}?versioning="), enabled);
    let mut fleet = Fleet::new(PROGRAM).in_bucket(format!("s3:/{bucket}/live"));
    let _desk = fleet.coordinator();
    let no_worker = Exit::Refused(ErrorCode::ModelUnavailable).code().into();
    let consent = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"];
    let prompts = fleet.path("prompts.toml");
    std::fs::write(&prompts, "prompts = [\"a photo of {subject}\"]").unwrap();
    for (subject, folder) in [("ada", "a"), ("ada", "b"), ("ada-2", "c")] {
        let photos = photo_folder(&fleet.path(folder), "subject-02", 2);
        let of = ["--subject", subject, "--init", "person", "--prompts", prompts.to_str().unwrap()];
        let submit = [&["submit", photos.to_str().unwrap()], &of[..]].concat();
        fleet.run(&[&submit[..], &consent].concat()).fails(no_worker, &["no worker"]);
    }
    let kept =
        |what: &str, subject: &str| s3("GET", &format!("{bucket}?prefix=live%2Fv1%2Flocal%2F{subject}%2F&{what}="), "");
    let count = |text: &str, element: &str| text.matches(&format!("<{element}>")).count();
    // A deletion that left its mark, an object that only an older version is left of, and an upload that was never completed.
    let gone = format!("{bucket}/live/v1/local/ada/render/gone.png");
    s3("PUT", &gone, "what was drawn");
    s3("DELETE", &gone, "");
    s3("POST", &format!("{bucket}/live/v1/local/ada/render/half.png?uploads="), "");
    let before = kept("versions", "ada");
    assert_eq!(
        (count(&before, "Version"), count(&before, "DeleteMarker")),
        (5, 1),
        "two photos twice and one more: {before}"
    );
    assert_eq!(count(&kept("uploads", "ada"), "Upload"), 1);
    let others = count(&kept("versions", "ada-2"), "Version");

    let receipt = fleet.run(&["forget", "ada", "--yes", "--json"]).json();

    assert_eq!((&receipt["photos"], &receipt["avatars"]), (&2.into(), &2.into()), "{receipt:#}");
    let after = kept("versions", "ada");
    assert_eq!((count(&after, "Version"), count(&after, "DeleteMarker")), (0, 0), "{after}");
    assert_eq!(count(&kept("uploads", "ada"), "Upload"), 0);
    assert_eq!((others, count(&kept("versions", "ada-2"), "Version")), (2, 2), "another's stay");
    assert_eq!(count(&s3("GET", &format!("{bucket}?prefix=live%2Fprobe%2F&versions="), ""), "Version"), 0);
    fleet
        .run(&["audit", "verify", "--store", fleet.store(), "--head", receipt["audit_hash"].as_str().unwrap()])
        .succeeds();
}

fn link_to(fleet: &Fleet, key: &str) -> DownloadLink {
    let bearer = Bearer::new(&Secret::new(fleet.token()).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(fleet.url().to_owned()).unwrap().connect_lazy();
        let ask = DownloadRequest { key: key.to_owned() };
        AvatarsClient::with_interceptor(channel, bearer).get_download_link(ask).await.unwrap().into_inner()
    })
}

#[test]
#[ignore = "needs Postgres and S3: tests/fleet.sh"]
fn a_job_goes_from_photos_to_avatars_over_two_coordinators_and_workers_of_their_own() {
    let mut fleet = Fleet::new(PROGRAM);
    let (one, other) = (fleet.coordinator(), fleet.coordinator());
    let _workers = (fleet.trainer("trainer", &one), fleet.sampler("sampler", &other));
    let job = submit(&fleet, QUICK);

    let ended = finished(&fleet, &job);

    let avatar = &ended["subjects"][0]["avatars"][0];
    let (key, sha256) = (avatar["object"]["key"].as_str().unwrap(), avatar["object"]["sha256"].as_str().unwrap());
    let link = link_to(&fleet, key);
    assert!((1..=900).contains(&link.seconds), "a link lives {} s", link.seconds);
    let got = Command::new("curl").args(["-fsS", &link.url]).output().unwrap();
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    assert_eq!(Sha256::of(&got.stdout).to_string(), sha256);
    let forged = Command::new("curl")
        .args(["-fsS", &link.url.replace(key, &key.replace("/render/", "/train/"))])
        .output()
        .unwrap();
    assert!(!forged.status.success(), "a link opens one object");
}

#[test]
#[ignore = "needs Postgres and S3: tests/fleet.sh"]
fn a_trainer_that_sleeps_past_its_lease_and_wakes_changes_nothing() {
    let mut fleet = Fleet::new(PROGRAM);
    let desk = fleet.coordinator();
    let sleeper = fleet.trainer("sleeper", &desk);
    let _sampler = fleet.sampler("sampler", &desk);
    let job = submit(&fleet, "--steps 60 --batch 2 --evaluate-every 20 --checkpoint-every 5 --seed 7");
    sleeper.says("task begun");
    sleeper.signal("STOP");

    let second = fleet.trainer("second", &desk);
    second.says("task begun");
    let ended = finished(&fleet, &job);
    sleeper.signal("CONT");

    sleeper.says("task dropped");
    fleet.nothing_is_lost(&job, AVATARS);
    let now = fleet.run(&["show", &job, "--json"]).json();
    assert_eq!(now["subjects"][0]["embedding"], ended["subjects"][0]["embedding"]);
    assert_eq!(now["state"], "succeeded");
}

#[test]
#[ignore = "needs Postgres and S3: tests/fleet.sh"]
fn a_bucket_that_fails_is_slow_is_full_and_cuts_short_costs_time_and_nothing_else() {
    let faults = [
        Fault::Status(503),
        Fault::Status(500),
        Fault::Wait(Duration::from_millis(1500)),
        Fault::CutAfter(100),
        Fault::Status(507), // no space is left
        Fault::CutUploadAfter(700),
        Fault::Status(507),
        Fault::CutAfter(10),
        Fault::Status(503),
    ];
    let proxy = FaultyHttp::before(&std::env::var("LIKENESS_TEST_S3").unwrap(), &faults);
    let mut fleet = Fleet::new(PROGRAM).bucket_at(proxy.url());
    let desk = fleet.coordinator();
    let _workers: (Role, Role) = (fleet.trainer("trainer", &desk), fleet.sampler("sampler", &desk));

    let job = submit(&fleet, QUICK);

    finished(&fleet, &job);
    fleet.nothing_is_lost(&job, AVATARS);
    assert_eq!(proxy.remaining(), [], "every fault was met");
}

/// Task and fence of every attempt that a worker has begun.
fn begun(worker: &Role) -> Vec<(String, String)> {
    let field = |line: &str, name: &str| {
        let value = line.split_once(&format!("{name}="))?.1;
        Some(value.split([' ', '}']).next()?.to_owned())
    };
    let attempts = worker.said().into_iter().filter(|line| line.contains("task begun"));
    attempts.map(|line| field(&line, "task").zip(field(&line, "fence")).expect("its task")).collect()
}

#[test]
#[ignore = "needs Postgres and S3: tests/fleet.sh"]
fn coordinators_that_race_for_every_task_grant_none_twice_and_end_every_job() {
    let mut fleet = Fleet::new(PROGRAM);
    let desks = [fleet.coordinator(), fleet.coordinator()];
    let trainers = ["trainer-1", "trainer-2"].iter().zip(&desks).map(|(name, desk)| fleet.trainer(name, desk));
    let samplers = ["sampler-1", "sampler-2"].iter().zip(&desks).map(|(name, desk)| fleet.sampler(name, desk));
    let workers: Vec<Role> = trainers.chain(samplers).collect();

    let jobs = ["ada", "bruno", "cleo", "dan"].map(|name| submit_as(&fleet, name, QUICK));

    jobs.iter().for_each(|job| fleet.nothing_is_lost(job, AVATARS));
    let mut attempts: Vec<_> = workers.iter().flat_map(begun).collect();
    let all = attempts.len();
    attempts.sort();
    attempts.dedup();
    assert_eq!(attempts.len(), all, "a task was granted twice at one fence");
    assert!(all >= 12, "three tasks of four jobs: {all}");
}

/// Seconds between the clock of whoever wrote a line of a log and ours.
fn skew(line: &str) -> i64 {
    let seconds = |moment: &str| -> i64 {
        let ran = Command::new("date").args(["-d", moment, "+%s"]).output().unwrap();
        String::from_utf8(ran.stdout).unwrap().trim().parse().unwrap_or_else(|_| panic!("no time in {line:?}"))
    };
    let stamp = line.split_whitespace().next().unwrap();
    seconds(stamp) - seconds("now")
}

#[test]
#[ignore = "needs Postgres and S3: tests/fleet.sh"]
fn clocks_that_are_five_minutes_off_change_nothing() {
    let mut fleet = Fleet::new(PROGRAM);
    fleet.set_clock(Some("+5m"));
    let ahead = fleet.coordinator();
    fleet.set_clock(Some("-5m"));
    let (behind, trainer) = (fleet.coordinator(), fleet.trainer("trainer", &ahead));
    fleet.set_clock(Some("+5m"));
    let sampler = fleet.sampler("sampler", &behind);
    fleet.set_clock(None);
    let off = [skew(&trainer.says("registered")), skew(&sampler.says("registered"))];
    assert!(off[0] < -280 && off[1] > 280, "the clocks are off by {off:?} s");

    let job = submit(&fleet, QUICK);

    fleet.nothing_is_lost(&job, AVATARS);
}

#[test]
#[ignore = "needs Postgres and S3: tests/fleet.sh"]
fn a_store_and_a_bucket_come_back_from_their_backups_and_whoever_was_forgotten_since_stays_so() {
    let mut fleet = Fleet::new(PROGRAM);
    let desk = fleet.coordinator();
    let workers = (fleet.trainer("trainer", &desk), fleet.sampler("sampler", &desk));
    let jobs = ["ada", "bruno"].map(|name| submit_as(&fleet, name, QUICK));
    jobs.iter().for_each(|job| fleet.nothing_is_lost(job, AVATARS));
    let (store, bucket) = (fleet.back_up(), fleet.contents());
    let receipt = fleet.run(&["forget", "ada", "--yes", "--json"]).json();
    drop((desk, workers));

    fleet.restore(&store, &bucket);
    let of_ada = |fleet: &Fleet| fleet.contents().into_keys().filter(|key| key.starts_with("v1/local/ada/")).count();
    assert!(of_ada(&fleet) > 4, "the backup has what she had");
    let desk = fleet.coordinator();

    let subjects = fleet.run(&["subjects", "--json"]).json();
    assert_eq!(of_ada(&fleet), 0, "she was forgotten again before the coordinator served");
    assert_eq!(fleet.run(&["admin", "replay-erasures", "--json"]).json()["forgotten"], 0, "nobody is left to forget");
    let names: Vec<_> = subjects.as_array().unwrap().iter().map(|subject| subject["name"].clone()).collect();
    assert_eq!(names, ["bruno"]);
    fleet.nothing_is_lost(&jobs[1], AVATARS);
    let out = fleet.path("restored");
    fleet.run(&["fetch", &jobs[1], "--out", out.to_str().unwrap()]).succeeds();
    assert_eq!(avatars(&out).len(), 4);
    // The restored log is whole, and does not hold what came after the backup.
    fleet
        .run(&["audit", "verify", "--store", fleet.store(), "--head", receipt["audit_hash"].as_str().unwrap()])
        .fails(Exit::Audit.code().into(), &["was cut off or replaced"]);
    // And it goes on.
    let _workers = (fleet.trainer("trainer", &desk), fleet.sampler("sampler", &desk));
    fleet.nothing_is_lost(&submit_as(&fleet, "cleo", QUICK), AVATARS);
}

#[test]
#[ignore = "needs Postgres and S3: tests/fleet.sh"]
fn the_doctor_asks_store_and_bucket_and_says_by_how_much_the_clock_is_wrong() {
    let mut fleet = Fleet::new(PROGRAM);
    let said = |ran: Value, name: &str| {
        let checks = ran["checks"].as_array().unwrap().iter();
        checks.filter(|check| check["name"] == name).map(|check| check["says"].to_string()).collect::<String>()
    };
    let before = fleet.doctor().json();
    assert!(said(before.clone(), "store").contains("is empty"), "{before:#}");
    assert!(said(before.clone(), "bucket").contains("was written, read and cleaned"), "{before:#}");
    assert_eq!(fleet.ask("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "0", "it makes nothing");
    let _desk = fleet.coordinator();
    fleet.run(&["list"]).succeeds();
    let after = fleet.doctor().json();
    assert!(said(after.clone(), "store").contains("the newest"), "{after:#}");

    fleet.set_clock(Some("+5m"));
    fleet
        .doctor()
        .fails(Exit::Unexpected.code().into(), &["clock:", "s ahead of the store's", "s ahead of the bucket's", "NTP"]);
}
