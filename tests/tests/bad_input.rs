//! Bad input gets a clear error with an exit code of its own kind, or a warning, and nothing is lost.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use likeness_cli::exit::Exit;
use likeness_proto::v1::ErrorCode;
use likeness_tests::{Ran, Sandbox, bad_pictures, bundled_photos, photo_folder};

const PROGRAM: &str = env!("CARGO_BIN_EXE_likeness-under-test");
const CONSENT: [&str; 6] = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"];
const QUICK: [&str; 8] = ["--steps", "2", "--batch", "1", "--evaluate-every", "2", "--init", "person"];

fn refused(code: ErrorCode) -> i32 {
    Exit::Refused(code).code().into()
}

fn prompts(sandbox: &Sandbox, text: &str) -> PathBuf {
    let file = sandbox.path("prompts.toml");
    fs::write(&file, text).unwrap();
    file
}

fn submit(sandbox: &Sandbox, folder: &Path, more: &[&str]) -> Ran {
    let prompts = prompts(sandbox, "prompts = [\"a photo of {subject}\"]\nsteps = 2");
    let subject = ["submit", folder.to_str().unwrap(), "--subject", "ada", "--prompts", prompts.to_str().unwrap()];
    sandbox.run(&[&subject[..], &QUICK, more].concat())
}

fn submit_photo(bytes: &[u8], name: &str) -> Ran {
    let sandbox = Sandbox::start(PROGRAM);
    let folder = photo_folder(&sandbox.path("photos"), "subject-01", 2);
    fs::write(folder.join(name), bytes).unwrap();
    let ran = submit(&sandbox, &folder, &CONSENT);
    if ran.code() != 0 {
        assert_eq!(sandbox.run(&["subjects", "--json"]).json(), serde_json::json!([]), "a refused subject was stored");
    }
    ran
}

#[test]
fn a_text_file_is_not_an_image() {
    submit_photo(b"hello", "holiday.png").fails(refused(ErrorCode::NotAnImage), &["holiday.png", "JPEG"]);
}

#[test]
fn a_truncated_image_is_damaged() {
    let whole = fs::read(bundled_photos("subject-01").join("03.png")).unwrap();
    submit_photo(&whole[..whole.len() / 2], "cut.png").fails(refused(ErrorCode::ImageDamaged), &["cut.png"]);
}

#[test]
fn a_side_beyond_8192_pixels_is_too_large() {
    submit_photo(&bad_pictures::plain(8193, 4), "wide.png")
        .fails(refused(ErrorCode::ImageTooLarge), &["wide.png", "8192"]);
}

#[test]
fn a_picture_beyond_the_decoder_budget_is_too_large() {
    submit_photo(&bad_pictures::plain(8000, 8000), "huge.png")
        .fails(refused(ErrorCode::ImageTooLarge), &["huge.png", "64 MiB"]);
}

#[test]
fn a_metadata_bomb_is_refused() {
    let ran = submit_photo(&bad_pictures::metadata_bomb(), "bomb.png");
    ran.fails(refused(ErrorCode::ImageTooLarge), &["bomb.png"]);
}

#[test]
fn an_animation_is_refused() {
    submit_photo(&bad_pictures::animated(), "dance.png").fails(refused(ErrorCode::ImageAnimated), &["dance.png"]);
}

#[test]
fn transparency_is_laid_on_white_with_a_warning() {
    let ran = submit_photo(&bad_pictures::transparent(256), "logo.png").succeeds();
    assert!(ran.stderr().contains("logo.png"), "{}", ran.stderr());
}

#[test]
fn a_photo_sent_twice_is_kept_once_with_a_warning() {
    let copy = fs::read(bundled_photos("subject-01").join("01.png")).unwrap();
    let ran = submit_photo(&copy, "again.png").succeeds();
    assert!(ran.stderr().contains("again.png"), "{}", ran.stderr());
}

#[test]
fn a_small_photo_is_upscaled_with_a_warning() {
    let ran = submit_photo(&bad_pictures::plain(40, 60), "stamp.png").succeeds();
    assert!(ran.stderr().contains("stamp.png"), "{}", ran.stderr());
}

#[test]
fn a_photo_on_its_side_is_stored_upright() {
    let sandbox = Sandbox::start(PROGRAM);
    let folder = sandbox.path("sideways");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("phone.jpg"), bad_pictures::sideways(300, 200)).unwrap();

    let ran = submit(&sandbox, &folder, &CONSENT).succeeds();

    assert!(ran.stderr().contains("only one"), "a single photo is warned of: {}", ran.stderr());
    let photo = &sandbox.run(&["subjects", "--json"]).json()[0]["photos"][0];
    assert_eq!((&photo["width"], &photo["height"]), (&200.into(), &300.into()));
}

#[test]
fn a_folder_without_photos_is_refused() {
    let sandbox = Sandbox::start(PROGRAM);
    let folder = sandbox.path("empty");
    fs::create_dir_all(&folder).unwrap();
    submit(&sandbox, &folder, &CONSENT).fails(refused(ErrorCode::NoPhotos), &["empty"]);
}

#[test]
fn a_subject_without_an_attestation_is_refused() {
    let sandbox = Sandbox::start(PROGRAM);
    let folder = photo_folder(&sandbox.path("photos"), "subject-01", 2);
    submit(&sandbox, &folder, &[]).fails(refused(ErrorCode::ConsentMissing), &["--attest-by"]);
}

#[test]
fn a_prompt_without_the_subject_is_refused_before_anything_is_uploaded() {
    let sandbox = Sandbox::start(PROGRAM);
    let folder = photo_folder(&sandbox.path("photos"), "subject-01", 2);
    let prompts = prompts(&sandbox, "prompts = [\"a photo of nobody\"]");
    let subject = ["submit", folder.to_str().unwrap(), "--subject", "ada", "--prompts", prompts.to_str().unwrap()];

    let ran = sandbox.run(&[&subject[..], &QUICK, &CONSENT].concat());

    ran.fails(refused(ErrorCode::PromptWithoutSubject), &["a photo of nobody", "{subject}"]);
    assert_eq!(sandbox.run(&["subjects", "--json"]).json(), serde_json::json!([]));
}

#[test]
fn a_prompt_of_more_than_77_tokens_is_drawn_with_a_warning_of_what_was_cut() {
    let sandbox = Sandbox::start(PROGRAM);
    let folder = photo_folder(&sandbox.path("photos"), "subject-01", 2);
    let long = format!("a photo of {{subject}}{} at sunset", ", smiling".repeat(60));
    let prompts = prompts(&sandbox, &format!("prompts = [\"{long}\"]\nsteps = 2"));
    let subject = ["submit", folder.to_str().unwrap(), "--subject", "ada", "--prompts", prompts.to_str().unwrap()];

    let job = sandbox.run(&[&subject[..], &QUICK, &CONSENT, &["--json"]].concat()).json();
    let (ended, code) = sandbox.watch(job["id"].as_str().unwrap()).end();

    assert_eq!(code, 0, "{ended:#}");
    let warnings = ended["subjects"][0]["warnings"].to_string();
    assert!(warnings.contains("at sunset"), "what was cut is not named: {warnings}");
}

#[test]
fn an_empty_initial_phrase_is_refused() {
    let sandbox = Sandbox::start(PROGRAM);
    let folder = photo_folder(&sandbox.path("photos"), "subject-01", 2);
    let prompts = prompts(&sandbox, "prompts = [\"a photo of {subject}\"]");
    let subject = ["submit", folder.to_str().unwrap(), "--subject", "ada", "--prompts", prompts.to_str().unwrap()];
    let ran = sandbox.run(&[&subject[..], &CONSENT, &["--init", " "]].concat());
    ran.fails(refused(ErrorCode::InitEmpty), &["init", "person"]);
}

#[test]
fn an_unknown_setting_names_the_nearest_one() {
    let sandbox = Sandbox::stopped(PROGRAM);
    let file = sandbox.path("likeness.toml");
    fs::write(&file, "treads = 2\n").unwrap();
    let ran = sandbox.run(&["--config", file.to_str().unwrap(), "list"]);
    ran.fails(Exit::Setting.code().into(), &["treads", "threads"]);
}

fn model_without(sandbox: &Sandbox, spoil: impl Fn(&Path)) -> PathBuf {
    let copy = sandbox.path("model");
    let original = bundled_photos("subject-01").join("../..");
    let copied = std::process::Command::new("cp").arg("-r").arg(&original).arg(&copy).status().unwrap();
    assert!(copied.success());
    spoil(&copy);
    copy
}

#[test]
fn a_model_with_a_missing_file_is_refused_by_the_files_name() {
    let mut sandbox = Sandbox::stopped(PROGRAM);
    let model = model_without(&sandbox, |folder| fs::remove_file(folder.join("unet/config.json")).unwrap());
    let ran = sandbox.fails_to_start(&["--model", model.to_str().unwrap()]);
    ran.fails(Exit::Model.code().into(), &["unet", "config.json"]);
}

#[test]
fn a_model_with_a_truncated_file_is_refused_by_the_files_name() {
    let mut sandbox = Sandbox::stopped(PROGRAM);
    let model = model_without(&sandbox, |folder| {
        let weights = fs::OpenOptions::new().write(true).open(folder.join("vae/diffusion_pytorch_model.safetensors"));
        weights.unwrap().set_len(100_000).unwrap();
    });
    let ran = sandbox.fails_to_start(&["--model", model.to_str().unwrap()]);
    ran.fails(Exit::Model.code().into(), &["vae", "diffusion_pytorch_model.safetensors"]);
}

#[test]
fn a_bucket_that_cannot_be_written_is_refused() {
    let mut sandbox = Sandbox::stopped(PROGRAM);
    let bucket = sandbox.path("bucket");
    fs::write(&bucket, "a file, not a folder").unwrap();
    let settings = sandbox.path("likeness.toml");
    fs::write(&settings, format!("bucket = \"file://{}\"", bucket.display())).unwrap();
    let ran = sandbox.fails_to_start(&["--config", settings.to_str().unwrap()]);
    ran.fails(Exit::Bucket.code().into(), &["bucket"]);
}

#[test]
fn a_port_in_use_is_refused_by_its_number() {
    let mut sandbox = Sandbox::stopped(PROGRAM);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    sandbox.fails_to_start(&["--listen", &address]).fails(Exit::PortInUse.code().into(), &[&address]);
}

#[test]
fn an_unknown_job_is_refused() {
    let sandbox = Sandbox::start(PROGRAM);
    let job = "01890a5d-ac96-774b-bcce-b302099a8057";
    for command in ["show", "watch", "cancel"] {
        sandbox.run(&[command, job]).fails(refused(ErrorCode::UnknownJob), &[job]);
    }
}

#[test]
fn a_finished_job_cannot_be_cancelled() {
    let sandbox = Sandbox::start(PROGRAM);
    let folder = photo_folder(&sandbox.path("photos"), "subject-01", 2);
    let job = submit(&sandbox, &folder, &[&CONSENT[..], &["--json"]].concat()).json();
    let id = job["id"].as_str().unwrap();
    sandbox.watch(id).end();
    sandbox.run(&["cancel", id]).fails(refused(ErrorCode::JobFinished), &[id]);
}

#[test]
fn no_server_is_its_own_kind_of_failure() {
    let sandbox = Sandbox::stopped(PROGRAM);
    let token = sandbox.path("token");
    fs::write(&token, "a-token").unwrap();
    let nowhere = ["--server", "http://127.0.0.1:1", "--token-file", token.to_str().unwrap()];
    let ran =
        Ran::of(sandbox.command(&nowhere).arg("list").env("LIKENESS__RETRY_SECONDS", "0").output().unwrap(), &nowhere);
    ran.fails(Exit::Unreachable.code().into(), &["127.0.0.1:1"]);
}
