use candle_core::{DType, Device};
use serde::Deserialize;
use serde_json::Value;

use super::*;
use crate::golden::{self, max_abs_diff, noise};

/// `tests/golden/schedules.json`; how the runs were made is told in `schedules.py`.
#[derive(Deserialize)]
struct Goldens {
    samplers: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    sampler: SamplerKind,
    steps: usize,
    init_noise_sigma: f64,
    config: Value,
}

const SHAPE: [usize; 4] = [1, 2, 3, 3];

fn schedule(config: &Value) -> NoiseSchedule {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config.to_string()).unwrap();
    NoiseSchedule::load(file.path()).unwrap()
}

/// The stand-in for a UNet that `schedules.py` has too.
fn model(input: &Tensor, t: f32) -> Tensor {
    let wave = ((input * 3.0).unwrap().sin().unwrap() * 0.2).unwrap();
    ((input * 0.8).unwrap() + wave).unwrap().affine(1.0, 0.1 * (f64::from(t) / 200.0).cos()).unwrap()
}

#[test]
fn every_step_of_every_sampler_is_that_of_diffusers() {
    let want = golden::tensors("samplers");
    let cases = golden::json::<Goldens>("schedules").samplers;
    assert_eq!(cases.len(), 36);
    for Case { name, sampler: kind, steps, init_noise_sigma, config } in cases {
        let mut sampler = kind.build(&schedule(&config), steps).unwrap();
        let timesteps = Tensor::new(sampler.timesteps(), &Device::Cpu).unwrap();
        assert!(max_abs_diff(&timesteps, &want[&format!("{name}.timesteps")]) < 1e-4, "{name}");
        assert!((sampler.init_noise_sigma() - init_noise_sigma).abs() < 1e-4 * init_noise_sigma, "{name}");

        let mut sample = (noise(30, &SHAPE) * sampler.init_noise_sigma()).unwrap();
        for index in 0..steps {
            let output = model(&sampler.scale_model_input(&sample, index).unwrap(), sampler.timesteps()[index]);
            let fresh = sampler.wants_noise().then(|| noise(3000 + index as u64, &SHAPE));
            sample = sampler.step(&output, index, &sample, fresh.as_ref()).unwrap();
            let want = want[&format!("{name}.samples")].get(index).unwrap();
            // Euler's early samples are up to 90 large, and diffusers computes their levels in f32: hence relative.
            let size = want.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap().max(1.0);
            let difference = max_abs_diff(&sample, &want);
            assert!(difference < 1e-5 * size, "{name}, step {index}: {difference} of {size}");
        }
    }
}

#[test]
fn names_are_read_as_they_are_written() {
    for kind in [SamplerKind::Ddim, SamplerKind::EulerAncestral, SamplerKind::UniPc] {
        assert_eq!(kind.to_string().parse::<SamplerKind>().unwrap(), kind);
        assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        assert_eq!(serde_json::from_str::<SamplerKind>(&format!("\"{kind}\"")).unwrap(), kind);
    }
    let error = "DDIM".parse::<SamplerKind>().unwrap_err().to_string();
    assert!(error.contains("\"DDIM\"") && error.contains("euler_ancestral"), "{error}");
}

#[test]
fn any_number_of_steps_ends_in_finite_latents_or_is_refused() {
    for spacing in ["leading", "trailing", "linspace"] {
        let schedule = schedule(&serde_json::json!({"timestep_spacing": spacing, "steps_offset": 1}));
        for kind in [SamplerKind::Ddim, SamplerKind::EulerAncestral, SamplerKind::UniPc] {
            for steps in [1, 2, 3, 333, 998, 999] {
                let sample = run(kind, &schedule, steps);
                assert_eq!(max_abs_diff(&sample, &sample), 0.0, "{kind} in {steps} steps, {spacing}"); // finite
            }
            assert_eq!(kind.build(&schedule, 0).err(), Some(BadSteps { steps: 0, limit: 999 }));
            assert_eq!(kind.build(&schedule, 1000).err(), Some(BadSteps { steps: 1000, limit: 999 }));
        }
    }
}

fn run(kind: SamplerKind, schedule: &NoiseSchedule, steps: usize) -> Tensor {
    let mut sampler = kind.build(schedule, steps).unwrap();
    assert_eq!(sampler.timesteps().len(), steps);
    let mut sample = (noise(1, &SHAPE) * sampler.init_noise_sigma()).unwrap();
    for index in 0..steps {
        let output = sampler.scale_model_input(&sample, index).unwrap();
        sample = sampler.step(&output, index, &sample, Some(&noise(2, &SHAPE))).unwrap();
    }
    sample
}

#[test]
fn a_step_that_is_not_there_is_an_error() {
    let schedule = schedule(&serde_json::json!({}));
    let latents = Tensor::zeros(&SHAPE, DType::F32, &Device::Cpu).unwrap();
    for kind in [SamplerKind::Ddim, SamplerKind::EulerAncestral, SamplerKind::UniPc] {
        let mut sampler = kind.build(&schedule, 3).unwrap();
        assert!(sampler.step(&latents, 3, &latents, Some(&latents)).is_err(), "{kind}");
    }
    let mut ancestral = SamplerKind::EulerAncestral.build(&schedule, 3).unwrap();
    assert!(ancestral.step(&latents, 0, &latents, None).unwrap_err().to_string().contains("noise"));
}
