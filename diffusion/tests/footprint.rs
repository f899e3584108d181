//! The memory that a step is said to take, against what it takes. Alone in its process, since it reads the process's own mark.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

#[path = "../src/golden.rs"]
#[allow(dead_code, unreachable_pub)]
mod golden;

use candle_core::Var;
use golden::noise;
use likeness_diffusion::{BaseModel, Device, Placeholder};

/// The most that this process had resident at once, bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    1024 * line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap()
}

/// A training step of `samples` samples, without the optimiser.
fn step(model: &BaseModel, samples: usize) {
    let placeholder = Placeholder { token: "<subject>".to_owned(), vectors: 1 };
    let prompt = model.tokenizer.encode("a photo of <subject>", Some(&placeholder)).unwrap();
    let rows = Var::from_tensor(&model.text.rows(&[0]).unwrap()).unwrap();
    let context = model.text.forward(&vec![prompt; samples], Some(&rows)).unwrap();
    let latents = noise(1, &[samples, model.vae.channels(), 16, 16]);
    let out = model.unet.forward(&latents, &vec![500; samples], &context).unwrap();
    out.sqr().unwrap().mean_all().unwrap().backward().unwrap();
}

#[test]
fn a_step_takes_what_its_footprint_says_and_not_much_less() {
    let mut model = BaseModel::load(&golden::model("avatar-tiny"), &Device::Cpu).unwrap();
    let said = model.footprint(16, 16);
    step(&model, 2); // fills what the kernels keep
    let before = peak();
    for (checkpointing, said) in [(true, said.sample_checkpointed), (false, said.sample)] {
        model.unet.set_checkpointing(checkpointing);
        step(&model, 42);
        let taken = (peak() - before) / 40;
        println!("checkpointing {checkpointing}: {taken} bytes a sample, said {said}");
        assert!(taken < said && taken > said / 3, "checkpointing {checkpointing}: {taken} bytes a sample, said {said}");
    }
}
