//! Compares an op with an independent formula: values and the gradient with respect to each argument.

use candle_core::{Device, Result, Tensor, Var};

use super::tape::{Value, frozen, frozen2};

/// Values in about [-2, 2] that depend only on `seed` and the position.
pub(crate) fn noise(seed: u64, shape: &[usize]) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 22) as f32 - 2.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Largest absolute difference.
pub(crate) fn gap(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let gap = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    assert!(!gap.is_nan());
    gap
}

/// A value without a gradient.
pub(crate) fn constant(tensor: &Tensor) -> Value {
    Value::constant(tensor).unwrap()
}

/// As [`agree`], for an op of one or two values on the tape.
pub(crate) fn frozen_agree(
    args: &[Tensor],
    op: impl Fn(&[Value]) -> Result<Value> + Sync,
    reference: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let on_tape = |args: &[Tensor]| match args {
        [a] => frozen(a, |a| op(std::slice::from_ref(a))),
        [a, b] => frozen2(a, b, |a, b| op(&[a.clone(), b.clone()])),
        _ => unreachable!("ops have one or two arguments"),
    };
    agree(args, on_tape, reference);
}

/// Asserts that `op` and `reference` agree in value and in the gradient of a random linear function of their result.
/// Each argument is used twice, once under a factor, so that accumulation of gradients is tested too.
pub(crate) fn agree(
    args: &[Tensor],
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
    reference: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let run = |f: &dyn Fn(&[Tensor]) -> Result<Tensor>| {
        let vars: Vec<Var> = args.iter().map(|a| Var::from_tensor(a).unwrap()).collect();
        let inputs: Vec<Tensor> = vars.iter().map(|v| (v.as_tensor() * 0.75).unwrap()).collect();
        let out = f(&inputs).unwrap();
        let extra: Tensor =
            inputs.iter().map(|i| i.sqr().unwrap().sum_all().unwrap()).reduce(|a, b| (a + b).unwrap()).unwrap();
        let loss = ((&out * noise(99, out.dims())).unwrap().sum_all().unwrap() + extra).unwrap();
        let grads = loss.backward().unwrap();
        (out, vars.iter().map(|v| grads.get(v).unwrap().clone()).collect::<Vec<_>>())
    };
    let (got, got_grads) = run(&op);
    let (want, want_grads) = run(&reference);
    let tolerance =
        |t: &Tensor| 2e-5 * (1.0 + t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap());
    assert!(gap(&got, &want) < tolerance(&want), "values differ by {}", gap(&got, &want));
    for (i, (got, want)) in got_grads.iter().zip(&want_grads).enumerate() {
        assert!(gap(got, want) < tolerance(want), "gradient {i} differs by {}", gap(got, want));
    }
}
