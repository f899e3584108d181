use std::collections::HashMap;

use candle_core::{DType, Device};
use serde_json::json;

use super::*;
use crate::golden::{self, max_abs_diff, noise};

fn schedule(config: &Value) -> std::result::Result<NoiseSchedule, LoadError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config.to_string()).unwrap();
    NoiseSchedule::load(file.path())
}

#[test]
fn noisy_latents_and_velocities_are_those_of_diffusers() {
    let cases: HashMap<String, Value> = golden::json::<HashMap<String, Value>>("schedules")
        .remove("training")
        .and_then(|training| serde_json::from_value(training).ok())
        .unwrap();
    let want = golden::tensors("schedule");
    let (clean, eps, timesteps) = (noise(20, &[5, 2, 3, 3]), noise(21, &[5, 2, 3, 3]), [0, 1, 250, 731, 999]);
    assert_eq!(cases.len(), 2);
    for (name, config) in cases {
        let schedule = schedule(&config).unwrap();
        let noisy = schedule.add_noise(&clean, &eps, &timesteps).unwrap();
        let velocity = schedule.velocity(&clean, &eps, &timesteps).unwrap();
        assert!(max_abs_diff(&noisy, &want[&format!("{name}.noisy")]) < 1e-5, "{name}");
        assert!(max_abs_diff(&velocity, &want[&format!("{name}.velocity")]) < 1e-5, "{name}");

        let target = schedule.target(&clean, &eps, &timesteps).unwrap();
        let predicted = if config["prediction_type"] == "epsilon" { &eps } else { &velocity };
        assert_eq!(max_abs_diff(&target, predicted), 0.0);
    }
}

#[test]
fn the_three_models_say_what_they_predict() {
    let of = |name: &str| NoiseSchedule::load(&golden::model(name).join("scheduler/scheduler_config.json")).unwrap();
    assert_eq!(of("avatar-tiny").prediction(), Prediction::Velocity);
    assert_eq!(of("sd15-like").prediction(), Prediction::Epsilon);
    assert_eq!(of("sd2-like").prediction(), Prediction::Velocity);
    assert_eq!(of("sd2-like").train_timesteps(), 1000);
}

#[test]
fn a_setting_that_is_not_supported_is_named_with_its_value() {
    let cases = [
        (json!({"beta_schedule": "squaredcos_cap_v2"}), "beta_schedule = \"squaredcos_cap_v2\""),
        (json!({"prediction_type": "sample"}), "prediction_type = \"sample\""),
        (json!({"timestep_spacing": "karras"}), "timestep_spacing = \"karras\""),
        (json!({"trained_betas": [0.1]}), "trained_betas = [0.1]"),
        (json!({"rescale_betas_zero_snr": true}), "rescale_betas_zero_snr = true"),
        (json!({"use_karras_sigmas": true}), "use_karras_sigmas = true"),
        (json!({"num_train_timesteps": 0}), "num_train_timesteps = 0"),
        (json!({"num_train_timesteps": 1e9}), "num_train_timesteps = 1000000000.0"),
        (json!({"beta_end": 1.5}), "beta_end = 1.5"),
        (json!({"beta_start": "small"}), "beta_start = \"small\""),
        (json!({"steps_offset": -1}), "steps_offset = -1"),
        (json!({"set_alpha_to_one": 1}), "set_alpha_to_one = 1"),
        (json!({"_class_name": "FlowMatchEulerDiscreteScheduler"}), "FlowMatchEulerDiscreteScheduler"),
    ];
    for (config, told) in cases {
        let error = schedule(&config).unwrap_err();
        assert!(matches!(error, LoadError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(told), "{error} should tell {told}");
    }
    assert!(matches!(schedule(&json!([])).unwrap_err(), LoadError::Config { .. }));
}

#[test]
fn timesteps_must_be_one_a_sample_and_within_the_schedule() {
    let schedule = schedule(&json!({})).unwrap();
    let latents = Tensor::zeros((2, 4, 2, 2), DType::F32, &Device::Cpu).unwrap();
    assert!(schedule.add_noise(&latents, &latents, &[1]).is_err());
    let error = schedule.add_noise(&latents, &latents, &[1, 1000]).unwrap_err().to_string();
    assert!(error.contains("timestep 1000"), "{error}");
}
