//! A fleet whose Postgres goes away and comes back. `tests/fleet.sh` starts it and runs these, one at a time.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::process::Command;

use likeness_tests::{Fleet, Role, photo_folder};

const PROGRAM: &str = env!("CARGO_BIN_EXE_likeness-under-test");

fn postgres(what: &str) {
    let control = std::env::var("LIKENESS_TEST_POSTGRES_CONTROL").expect("run tests/fleet.sh");
    assert!(Command::new(control).arg(what).status().unwrap().success(), "Postgres did not {what}");
}

/// `outage` is given what asks the fleet's database, and the trainer in the middle of its task.
fn a_job_survives(outage: impl FnOnce(&Fleet, &Role)) {
    let mut fleet = Fleet::new(PROGRAM);
    let desk = fleet.coordinator();
    let trainer = fleet.trainer("trainer", &desk);
    let _sampler = fleet.sampler("sampler", &desk);
    let photos = photo_folder(&fleet.path("photos"), "subject-02", 3);
    let prompts = fleet.path("prompts.toml");
    std::fs::write(&prompts, "steps = 3\nseeds = [1, 2]\nprompts = [\"a photo of {subject}\"]").unwrap();
    let subject =
        [photos.to_str().unwrap(), "--subject", "bruno", "--init", "person", "--prompts", prompts.to_str().unwrap()];
    let training = "--steps 40 --batch 2 --evaluate-every 20 --checkpoint-every 5 --seed 7".split(' ');
    let consent = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"];
    let job = fleet.submit(&subject.into_iter().chain(training).chain(consent).collect::<Vec<_>>());
    trainer.says("task begun");

    outage(&fleet, &trainer);

    fleet.nothing_is_lost(&job, 2);
    assert_eq!(
        fleet.ask("SELECT count(*) FROM tasks WHERE kind <> 4"),
        "3",
        "train, render and assemble, beside previews"
    );
}

#[test]
#[ignore = "needs Postgres and S3: tests/fleet.sh"]
fn a_job_survives_a_crash_of_postgres() {
    a_job_survives(|fleet, _| {
        let started = || fleet.ask("SELECT pg_postmaster_start_time()");
        let before = started();
        postgres("restart");
        assert_ne!(before, started(), "it was another process before");
    });
}

#[test]
#[ignore = "needs Postgres and S3: tests/fleet.sh"]
fn a_job_survives_a_postgres_that_stops_answering() {
    a_job_survives(|_, trainer| {
        postgres("pause");
        trainer.says("lease lapsed");
        postgres("continue");
    });
}
