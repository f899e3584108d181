//! A disk without room: a clear error, and never half a file under its final name. The limit on file sizes stands in for
//! the disk; it fails the same write calls.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::fs;
use std::path::Path;
use std::process::Command;

use image::{ImageFormat, RgbImage};
use likeness_cli::exit::Exit;
use likeness_proto::v1::ErrorCode;
use likeness_tests::{Ran, Sandbox, photo_folder};

const PROGRAM: &str = env!("CARGO_BIN_EXE_likeness-under-test");
const CONSENT: [&str; 6] = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"];

/// `command`, in which no file can grow beyond `kib`.
fn with_files_up_to(kib: u64, command: &Command) -> Command {
    let mut limited = Command::new("sh");
    // Without the trap the signal would end the process before the write can fail. `ulimit -f` counts 512-byte blocks.
    limited.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", kib * 2));
    limited.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

fn submit(sandbox: &Sandbox, folder: &Path) -> Ran {
    let prompts = sandbox.path("prompts.toml");
    fs::write(&prompts, "prompts = [\"a photo of {subject}\"]\nsteps = 2").unwrap();
    let subject = ["submit", folder.to_str().unwrap(), "--subject", "ada", "--init", "person", "--json"];
    let quick = ["--steps", "2", "--batch", "1", "--prompts", prompts.to_str().unwrap()];
    sandbox.run(&[&subject[..], &quick, &CONSENT].concat())
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
fn a_full_disk_under_the_bucket_refuses_the_upload_and_leaves_nothing_of_it() {
    let mut sandbox = Sandbox::stopped(PROGRAM);
    sandbox.up_by(with_files_up_to(6 << 10, &sandbox.up_command(&[])));
    let folder = photo_folder(&sandbox.path("photos"), "subject-01", 1);
    // Noise does not compress: 8 MiB as PNG.
    let noise = |x: u32, y: u32| {
        image::Rgb((x * 7919 + y * 104_729).wrapping_mul(2_654_435_761).to_be_bytes()[..3].try_into().unwrap())
    };
    RgbImage::from_fn(1700, 1700, noise).save_with_format(folder.join("noise.png"), ImageFormat::Png).unwrap();

    submit(&sandbox, &folder).fails(Exit::Refused(ErrorCode::StorageFull).code().into(), &["disk"]);

    assert_eq!(sandbox.drain().code(), Some(0));
    sandbox.up(); // before it answers, it sweeps what the last run left half done
    assert_eq!(sandbox.run(&["subjects", "--json"]).json(), serde_json::json!([]));
    let stored = files_under(&sandbox.state().join("bucket"));
    assert!(stored.iter().all(|name| !name.ends_with(".png")), "left behind: {stored:?}");
}

#[test]
fn a_full_disk_under_fetch_leaves_no_half_file() {
    let sandbox = Sandbox::start(PROGRAM);
    let job = submit(&sandbox, &photo_folder(&sandbox.path("photos"), "subject-01", 2)).json();
    let job = job["id"].as_str().unwrap();
    assert_eq!(sandbox.watch(job).end().1, 0);
    let out = sandbox.path("out");
    let fetch = sandbox.command(&["fetch", job, "--out", out.to_str().unwrap()]);

    let args = ["fetch", "on a full disk"];
    Ran::of(with_files_up_to(1, &fetch).output().unwrap(), &args).fails(Exit::DiskFull.code().into(), &["disk"]);

    for file in files_under(&out) {
        assert!(fs::metadata(&file).unwrap().len() <= 1024, "{file} was cut off by the limit");
    }
    assert!(!sandbox.fetch(job, "out").join("nothing").exists(), "fetching again completes what is missing");
}
