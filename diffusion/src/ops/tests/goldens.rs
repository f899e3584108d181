//! Values and gradients that PyTorch gives. tests/golden/ops.py says how they were made.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Result, Tensor, Var};

use super::super::activation::{Activation, geglu};
use super::super::attention::Attention;
use super::super::composed::Place;
use super::super::conv::{Arithmetic, Conv3x3, Stride};
use super::super::glue::upsample_nearest;
use super::super::group_norm::{GroupNorm, Then};
use super::super::layer_norm::LayerNorm;
use super::super::linear::Linear;
use super::super::tape::{Value, frozen, frozen2};
use super::super::to_vec;
use crate::golden::{self, max_abs_diff, noise};

const EPSILON: f64 = 1e-5;
/// Largest difference, relative to one plus the golden's largest value: rounding of sums of up to 150 terms.
const ROUNDING: f32 = 2e-6;
/// The same for Winograd's F(4×4), whose transforms lose a digit.
const WINOGRAD: f32 = 2e-5;

struct Goldens {
    tensors: HashMap<String, Tensor>,
    shapes: BTreeMap<String, Vec<Vec<usize>>>,
    tested: RefCell<Vec<String>>,
}

impl Goldens {
    fn load() -> Self {
        Self { tensors: golden::tensors("ops"), shapes: golden::json("ops"), tested: RefCell::default() }
    }

    /// Channels of a case's first input.
    fn channels(&self, name: &str) -> usize {
        *self.shapes[name][0].last().unwrap()
    }

    /// An op without weights, by its kernel and as a composition.
    fn both(&self, name: &str, op: impl Fn(&[Value]) -> Result<Value> + Sync) {
        self.kernel(name, ROUNDING, &op);
        self.composed(name, op);
    }

    fn kernel(&self, name: &str, tolerance: f32, op: impl Fn(&[Value]) -> Result<Value> + Sync) {
        self.test(name, tolerance, DType::F32, op);
        self.tested.borrow_mut().push(name.to_owned());
    }

    fn composed(&self, name: &str, op: impl Fn(&[Value]) -> Result<Value> + Sync) {
        self.test(name, ROUNDING, DType::F64, op);
    }

    fn test(&self, name: &str, tolerance: f32, dtype: DType, op: impl Fn(&[Value]) -> Result<Value> + Sync) {
        let input = |(i, shape): (usize, &Vec<usize>)| {
            Var::from_tensor(&noise(1 + i as u64, shape).to_dtype(dtype).unwrap()).unwrap()
        };
        let inputs: Vec<Var> = self.shapes[name].iter().enumerate().map(input).collect();
        let out = match &inputs[..] {
            [x] => frozen(x, |x| op(std::slice::from_ref(x))),
            [x, y] => frozen2(x, y, |x, y| op(&[x.clone(), y.clone()])),
            _ => unreachable!("cases have one or two inputs"),
        };
        let out = out.unwrap();
        let direction = noise(5, out.dims()).to_dtype(dtype).unwrap();
        let gradients = (&out * direction).unwrap().sum_all().unwrap().backward().unwrap();
        self.near(&format!("{name}.out"), tolerance, &out);
        for (letter, input) in ["x", "y"].into_iter().zip(&inputs) {
            self.near(&format!("{name}.{letter}"), tolerance, gradients.get(input).unwrap());
        }
    }

    fn near(&self, what: &str, tolerance: f32, got: &Tensor) {
        let want = &self.tensors[what];
        let size = to_vec(want).unwrap().iter().fold(1f32, |size, x| size.max(1.0 + x.abs()));
        let gap = max_abs_diff(&got.to_dtype(DType::F32).unwrap(), want) / size;
        assert!(gap < tolerance, "{what} is {gap} away, relative to {size}");
    }
}

/// A place without kernels, so that ops are computed by candle as on a GPU.
fn double() -> Place {
    Place { device: Device::Cpu, dtype: DType::F64 }
}

/// As ops.py's `weight`.
fn weight(shape: &[usize]) -> Vec<f32> {
    let terms = shape[1..].iter().product::<usize>();
    to_vec(&(noise(3, shape) / (terms as f64).sqrt()).unwrap()).unwrap()
}

/// Weights of a norm, or a bias.
fn vector(seed: u64, width: usize) -> Vec<f32> {
    to_vec(&noise(seed, &[width])).unwrap()
}

#[test]
fn convolutions_are_pytorchs() {
    let goldens = Goldens::load();
    let cases = [
        ("conv.direct", 7, Stride::One, ROUNDING),
        ("conv.one_pixel", 2, Stride::One, ROUNDING),
        ("conv.small", 16, Stride::One, ROUNDING),
        ("conv.winograd2", 16, Stride::One, ROUNDING),
        ("conv.winograd4", 16, Stride::One, WINOGRAD),
        ("conv.residual", 16, Stride::One, ROUNDING),
        ("conv.half", 4, Stride::Two, ROUNDING),
        ("conv.half_end", 4, Stride::TwoPadEnd, ROUNDING),
    ];
    for (name, outputs, stride, fast) in cases {
        let inputs = goldens.channels(name);
        for (arithmetic, tolerance) in [(Arithmetic::Fast, fast), (Arithmetic::Exact, ROUNDING)] {
            let weight = weight(&[outputs, inputs, 3, 3]);
            let conv = Conv3x3::new(&weight, vector(4, outputs), (inputs, outputs), stride, arithmetic).unwrap();
            goldens.kernel(name, tolerance, |a| match a {
                [x, residual] => conv.forward_add(x, residual),
                _ => conv.forward(&a[0]),
            });
        }
        let weight = weight(&[outputs, inputs, 3, 3]);
        let conv = Conv3x3::at(&double(), weight, vector(4, outputs), (inputs, outputs), stride).unwrap();
        goldens.composed(name, |a| match a {
            [x, residual] => conv.forward_add(x, residual),
            _ => conv.forward(&a[0]),
        });
    }
    goldens.all_of("conv");
}

#[test]
fn linear_layers_are_pytorchs() {
    let goldens = Goldens::load();
    let layers = |name: &str, outputs: usize, bias: bool| {
        let inputs = goldens.channels(name);
        let (weight, bias) = (weight(&[outputs, inputs]), bias.then(|| vector(4, outputs)));
        let kernel = Linear::new(&weight, bias.clone(), inputs, outputs).unwrap();
        (kernel, Linear::at(&double(), weight, bias, inputs).unwrap())
    };
    for (name, outputs, bias) in [("linear.bias", 11, true), ("linear.plain", 9, false), ("linear.residual", 5, true)] {
        let (kernel, composed) = layers(name, outputs, bias);
        let run = |layer: &Linear, a: &[Value]| match a {
            [x, residual] => layer.forward_add(x, residual),
            _ => layer.forward(&a[0]),
        };
        goldens.kernel(name, ROUNDING, |a| run(&kernel, a));
        goldens.composed(name, |a| run(&composed, a));
    }
    let ((kernel, composed), attention) = (layers("linear.fused", 36, false), Attention { heads: 3, causal: true });
    goldens.kernel("linear.fused", ROUNDING, |a| attention.to_self(&kernel.forward(&a[0])?));
    goldens.composed("linear.fused", |a| attention.to_self(&composed.forward(&a[0])?));
    goldens.all_of("linear");
}

#[test]
fn norms_are_pytorchs() {
    let goldens = Goldens::load();
    for (name, groups, then) in [("group_norm", 3, Then::Nothing), ("group_norm.silu", 2, Then::Silu)] {
        let c = goldens.channels(name);
        let norm = GroupNorm::new(vector(3, c), vector(4, c), groups, EPSILON, then);
        goldens.kernel(name, ROUNDING, |a| norm.forward(&a[0]));
        let norm = norm.at(&double()).unwrap();
        goldens.composed(name, |a| norm.forward(&a[0]));
    }
    let c = goldens.channels("layer_norm");
    let norm = LayerNorm::new(vector(3, c), vector(4, c), EPSILON);
    goldens.kernel("layer_norm", ROUNDING, |a| norm.forward(&a[0]));
    let norm = norm.at(&double()).unwrap();
    goldens.composed("layer_norm", |a| norm.forward(&a[0]));
    goldens.all_of("group_norm");
    goldens.all_of("layer_norm");
}

#[test]
fn activations_are_pytorchs() {
    let goldens = Goldens::load();
    goldens.both("silu", |a| Activation::Silu.forward(&a[0]));
    goldens.both("gelu", |a| Activation::Gelu.forward(&a[0]));
    goldens.both("quick_gelu", |a| Activation::QuickGelu.forward(&a[0]));
    goldens.both("geglu", |a| geglu(&a[0]));
}

#[test]
fn attention_is_pytorchs() {
    let goldens = Goldens::load();
    for (name, heads, causal) in
        [("attention.self", 3, false), ("attention.causal", 2, true), ("attention.one", 1, false)]
    {
        goldens.both(name, |a| Attention { heads, causal }.to_self(&a[0]));
    }
    goldens.both("attention.cross", |a| Attention { heads: 2, causal: false }.to_other(&a[0], &a[1]));
    goldens.all_of("attention");
}

#[test]
fn upsampling_is_pytorchs() {
    let goldens = Goldens::load();
    goldens.both("upsample", |a| upsample_nearest(&a[0], 6, 10));
    goldens.both("upsample.odd", |a| upsample_nearest(&a[0], 5, 3));
    goldens.all_of("upsample");
}

impl Goldens {
    /// Every case of this op was tested.
    fn all_of(&self, op: &str) {
        let tested = self.tested.borrow();
        let left: Vec<_> = self.shapes.keys().filter(|name| name.starts_with(op) && !tested.contains(name)).collect();
        assert!(left.is_empty(), "not tested: {left:?}");
    }
}
