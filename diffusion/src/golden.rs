//! Goldens of `tests/golden`, made with PyTorch and diffusers by `tests/golden/make.py`. For tests only.

use candle_core::{Device, Tensor};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::path::PathBuf;

/// A path below the repository's root.
pub(crate) fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The folder of one of the three configurations: `avatar-tiny`, `sd15-like`, `sd2-like`.
pub(crate) fn model(name: &str) -> PathBuf {
    repository(&if name == "avatar-tiny" { format!("models/{name}") } else { format!("tests/golden/{name}") })
}

/// All tensors of `tests/golden/{name}.safetensors`.
pub(crate) fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(repository(&format!("tests/golden/{name}.safetensors")), &Device::Cpu).unwrap()
}

/// `tests/golden/{name}.json`.
pub(crate) fn json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(repository(&format!("tests/golden/{name}.json"))).unwrap()).unwrap()
}

/// The inputs that goldens do not store: `inputs.noise(seed, *shape)`, bit for bit. Mean 0, variance 1.
pub(crate) fn noise(seed: u64, shape: &[usize]) -> Tensor {
    let value = |k: u64| {
        let mut z = ((seed << 32) + k + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        let unit = (z >> 40) as f64 / (1u64 << 24) as f64;
        ((2.0 * unit - 1.0) * 3f64.sqrt()) as f32
    };
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The largest absolute difference of two tensors of the same shape.
pub(crate) fn max_abs_diff(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    let values = difference.to_vec1::<f32>().unwrap();
    assert!(values.iter().all(|v| v.is_finite()), "both sides must be finite");
    values.into_iter().fold(0.0, f32::max)
}
