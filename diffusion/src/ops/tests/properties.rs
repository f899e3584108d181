//! On any shape an op agrees with its plain composition, in values and gradients; see `testing::agree` for the tolerance.

use candle_core::{Result, Tensor, Var};
use half::f16;
use half::slice::HalfFloatSliceExt;
use proptest::prelude::*;

use super::super::activation::{Activation, geglu};
use super::super::attention::Attention;
use super::super::conv::{Arithmetic, Conv3x3, Stride};
use super::super::glue::upsample_nearest;
use super::super::group_norm::{GroupNorm, Then};
use super::super::layer_norm::LayerNorm;
use super::super::linear::Linear;
use super::super::tape::{Value, frozen};
use super::super::testing::{constant, frozen_agree, noise};
use super::super::to_vec;
use super::plain;
use crate::stored::Source;

fn stride() -> impl Strategy<Value = Stride> {
    prop_oneof![Just(Stride::One), Just(Stride::Two), Just(Stride::TwoPadEnd)]
}

fn arithmetic() -> impl Strategy<Value = Arithmetic> {
    prop_oneof![Just(Arithmetic::Fast), Just(Arithmetic::Exact)]
}

/// Values that f16 has.
fn halves(shape: &[usize]) -> Vec<f16> {
    to_vec(&noise(1, shape)).unwrap().into_iter().map(f16::from_f32).collect()
}

/// Asserts that two ops give the same values and gradients, to the bit.
fn same_bits(x: &Tensor, ops: [impl Fn(&Value) -> Result<Value> + Sync; 2]) {
    let [a, b] = ops.map(|op| {
        let x = Var::from_tensor(x).unwrap();
        let y = frozen(&x, |x| op(x)).unwrap();
        let gradient = (&y * noise(4, y.dims())).unwrap().sum_all().unwrap().backward().unwrap();
        [to_vec(&y).unwrap(), to_vec(gradient.get(&x).unwrap()).unwrap()]
    });
    assert!(a == b);
}

/// A convolution of a picture, with a shift and with a residual, against candle's own.
fn convolution_agrees(
    (b, h, w): (usize, usize, usize),
    (inputs, outputs): (usize, usize),
    stride: Stride,
    arithmetic: Arithmetic,
) {
    let (weight, bias) = (noise(1, &[outputs, inputs, 3, 3]), noise(2, &[outputs]));
    let frozen =
        Conv3x3::new(&to_vec(&weight).unwrap(), to_vec(&bias).unwrap(), (inputs, outputs), stride, arithmetic).unwrap();
    let (x, shift) = (noise(3, &[b, h, w, inputs]), noise(4, &[b, outputs]));
    frozen_agree(
        std::slice::from_ref(&x),
        |a| frozen.forward_shifted(&a[0], &shift),
        |a| plain::conv(&a[0], &weight, &bias, stride)?.broadcast_add(&shift.reshape((b, 1, 1, outputs))?),
    );
    let residual = noise(5, frozen.forward(&constant(&x)).unwrap().tensor().dims());
    frozen_agree(
        &[x, residual],
        |a| frozen.forward_add(&a[0], &a[1]),
        |a| plain::conv(&a[0], &weight, &bias, stride)? + &a[1],
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn convolutions_of_any_channels(
        b in 1usize..4, h in 2usize..12, w in 2usize..12, inputs in 1usize..20, outputs in 1usize..20,
        stride in stride(), arithmetic in arithmetic(),
    ) {
        convolution_agrees((b, h, w), (inputs, outputs), stride, arithmetic);
    }

    #[test]
    fn convolutions_that_winograds_method_takes(
        b in 1usize..3, h in 1usize..30, w in 1usize..30, inputs in 1usize..4, outputs in 1usize..4,
    ) {
        convolution_agrees((b, h, w), (16 * inputs, 16 * outputs), Stride::One, Arithmetic::Fast);
    }

    #[test]
    fn linear_layers(rows in 1usize..80, inputs in 1usize..70, outputs in 1usize..70, bias in any::<bool>()) {
        let (weight, mut offset) = (noise(1, &[outputs, inputs]), noise(2, &[outputs]));
        if !bias {
            offset = offset.zeros_like().unwrap();
        }
        let own = bias.then(|| to_vec(&offset).unwrap());
        let frozen = Linear::new(&to_vec(&weight).unwrap(), own, inputs, outputs).unwrap();
        let (x, residual) = (noise(3, &[2, rows, inputs]), noise(4, &[2, rows, outputs]));
        let want = |a: &[Tensor]| plain::linear(&a[0], &weight, &offset);
        frozen_agree(std::slice::from_ref(&x), |a| frozen.forward(&a[0]), want);
        frozen_agree(&[x, residual], |a| frozen.forward_add(&a[0], &a[1]), |a| want(a)? + &a[1]);
    }

    #[test]
    fn fused_projections_give_what_each_gives_alone(rows in 1usize..40, inputs in 1usize..40, each in 1usize..40) {
        let weight = to_vec(&noise(1, &[3 * each, inputs])).unwrap();
        let x = noise(2, &[1, rows, inputs]);
        let fused = Linear::new(&weight, None, inputs, 3 * each).unwrap().forward(&constant(&x)).unwrap();
        for (part, own) in weight.chunks_exact(each * inputs).enumerate() {
            let alone = Linear::new(&own.to_vec(), None, inputs, each).unwrap().forward(&constant(&x)).unwrap();
            let fused = fused.tensor().narrow(2, part * each, each).unwrap();
            prop_assert!(super::super::testing::gap(alone.tensor(), &fused) < 1e-4);
        }
    }

    #[test]
    fn halves_give_the_bits_of_the_same_weights_widened(
        side in 1usize..20, inputs in 1usize..40, outputs in 1usize..40, whole in any::<bool>(), stride in stride(),
    ) {
        let (inputs, outputs) = if whole { (16 * inputs.div_ceil(16), 16 * outputs.div_ceil(16)) } else { (inputs, outputs) };
        let (filter, matrix) = (halves(&[outputs, inputs, 3, 3]), halves(&[outputs, inputs]));
        let (x, channels) = (noise(3, &[2, side, side, inputs]), (inputs, outputs));
        let conv = |weight: &dyn Source| Conv3x3::new(weight, vec![0.5; outputs], channels, stride, Arithmetic::Fast).unwrap();
        let convs = [conv(&filter), conv(&filter.to_f32_vec())];
        same_bits(&x, convs.map(|conv| move |x: &Value| conv.forward(x)));
        let linear = |weight: &dyn Source| Linear::new(weight, None, inputs, outputs).unwrap();
        let linears = [linear(&matrix), linear(&matrix.to_f32_vec())];
        same_bits(&x, linears.map(|linear| move |x: &Value| linear.forward(x)));
    }

    #[test]
    fn group_norms(
        b in 1usize..4, h in 1usize..14, w in 1usize..14, groups in 1usize..6, each in 1usize..9, silu in any::<bool>(),
    ) {
        let c = groups * each;
        // A group of a single value has no variance, and its gradient is all rounding.
        prop_assume!(h * w * each > 2);
        let (weight, bias) = (noise(1, &[c]), noise(2, &[c]));
        let then = if silu { Then::Silu } else { Then::Nothing };
        let frozen = GroupNorm::new(to_vec(&weight).unwrap(), to_vec(&bias).unwrap(), groups, 1e-5, then);
        frozen_agree(&[noise(3, &[b, h, w, c])], |a| frozen.forward(&a[0]), |a| {
            let y = plain::group_norm(&a[0], &weight, &bias, groups)?;
            if silu { plain::gated(&y, 1.0) } else { Ok(y) }
        });
    }

    #[test]
    fn layer_norms(rows in 1usize..200, width in 3usize..150) {
        let (weight, bias) = (noise(1, &[width]), noise(2, &[width]));
        let frozen = LayerNorm::new(to_vec(&weight).unwrap(), to_vec(&bias).unwrap(), 1e-5);
        frozen_agree(
            &[noise(3, &[2, rows, width])],
            |a| frozen.forward(&a[0]),
            |a| plain::layer_norm(&a[0], &weight, &bias),
        );
    }

    #[test]
    fn activations(rows in 1usize..200, width in 1usize..150) {
        let x = (noise(1, &[rows, width]) * 3.0).unwrap();
        let args = std::slice::from_ref(&x);
        frozen_agree(args, |a| Activation::Silu.forward(&a[0]), |a| plain::gated(&a[0], 1.0));
        frozen_agree(args, |a| Activation::QuickGelu.forward(&a[0]), |a| plain::gated(&a[0], 1.702));
        frozen_agree(args, |a| Activation::Gelu.forward(&a[0]), |a| a[0].gelu_erf());
    }

    #[test]
    fn gated_feed_forwards(rows in 1usize..200, n in 1usize..80) {
        frozen_agree(&[(noise(1, &[2, rows, 2 * n]) * 2.0).unwrap()], |a| geglu(&a[0]), |a| plain::geglu(&a[0]));
    }

    #[test]
    fn attention_to_itself(
        b in 1usize..3, n in 1usize..60, heads in 1usize..5, dim in 1usize..20, causal in any::<bool>(),
    ) {
        let (op, c) = (Attention { heads, causal }, heads * dim);
        frozen_agree(&[noise(1, &[b, n, 3 * c])], |a| op.to_self(&a[0]), |a| {
            plain::attention(op, &a[0].narrow(2, 0, c)?, &a[0].narrow(2, c, c)?, &a[0].narrow(2, 2 * c, c)?)
        });
    }

    #[test]
    fn attention_to_another(
        b in 1usize..3, n in 1usize..60, m in 1usize..60, heads in 1usize..5, dim in 1usize..20,
    ) {
        let (op, c) = (Attention { heads, causal: false }, heads * dim);
        frozen_agree(&[noise(1, &[b, n, c]), noise(2, &[b, m, 2 * c])], |a| op.to_other(&a[0], &a[1]), |a| {
            plain::attention(op, &a[0], &a[1].narrow(2, 0, c)?, &a[1].narrow(2, c, c)?)
        });
    }

    #[test]
    fn doubling_pictures(b in 1usize..4, h in 1usize..14, w in 1usize..14, c in 1usize..20) {
        frozen_agree(
            &[noise(1, &[b, h, w, c])],
            |a| upsample_nearest(&a[0], 2 * h, 2 * w),
            |a| plain::doubled(&a[0]),
        );
    }
}
