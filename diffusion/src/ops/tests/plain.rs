//! What the ops compute, as plain compositions of candle ops, which have gradients of their own.

use candle_core::{Result, Tensor};

use super::super::attention::Attention;
use super::super::conv::Stride;

/// `x` `(b, h, w, i)`, `weight` `(o, i, 3, 3)`, `bias` `(o)`.
pub(super) fn conv(x: &Tensor, weight: &Tensor, bias: &Tensor, stride: Stride) -> Result<Tensor> {
    let x = x.permute((0, 3, 1, 2))?.contiguous()?;
    let y = match stride {
        Stride::One => x.conv2d(weight, 1, 1, 1, 1)?,
        Stride::Two => every_second(&x.conv2d(weight, 1, 1, 1, 1)?)?,
        Stride::TwoPadEnd => {
            every_second(&x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?.conv2d(weight, 0, 1, 1, 1)?)?
        }
    };
    y.permute((0, 2, 3, 1))?.broadcast_add(bias)
}

/// Every second row and column: candle's own gradient of a stride of 2 fails where one side is odd and the other even.
fn every_second(x: &Tensor) -> Result<Tensor> {
    let picks = |side: usize| Tensor::new((0..side as u32).step_by(2).collect::<Vec<_>>(), x.device());
    let (_, _, h, w) = x.dims4()?;
    x.index_select(&picks(h)?, 2)?.index_select(&picks(w)?, 3)?.contiguous()
}

/// `x` `(…, i)`, `weight` `(o, i)`, `bias` `(o)`.
pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.broadcast_matmul(&weight.t()?)?.broadcast_add(bias)
}

/// Mean 0 and variance 1 over the groups of `(b, h, w, c)`, then `weight` and `bias` `(c)`.
pub(super) fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let grouped = x.reshape((b, h * w, groups, c / groups))?;
    let mean = |t: &Tensor| t.mean_keepdim(3)?.mean_keepdim(1);
    let centred = grouped.broadcast_sub(&mean(&grouped)?)?;
    let deviation = (mean(&centred.sqr()?)? + 1e-5)?.sqrt()?;
    centred.broadcast_div(&deviation)?.reshape((b, h, w, c))?.broadcast_mul(weight)?.broadcast_add(bias)
}

/// Mean 0 and variance 1 over the last dimension, then `weight` and `bias`.
pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let last = x.dims().len() - 1;
    let centred = x.broadcast_sub(&x.mean_keepdim(last)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(last)? + 1e-5)?.sqrt()?;
    centred.broadcast_div(&deviation)?.broadcast_mul(weight)?.broadcast_add(bias)
}

/// x · sigmoid(k x).
pub(super) fn gated(x: &Tensor, k: f64) -> Result<Tensor> {
    (x / ((x * -k)?.exp()? + 1.0)?)?.contiguous()
}

/// The first half of the last dimension times GELU of the second.
pub(super) fn geglu(x: &Tensor) -> Result<Tensor> {
    let (last, n) = (x.dims().len() - 1, x.dims()[x.dims().len() - 1] / 2);
    x.narrow(last, 0, n)? * x.narrow(last, n, n)?.gelu_erf()?
}

/// `q` `(b, n, c)`, `k` and `v` `(b, m, c)`.
pub(crate) fn attention(op: Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let ((b, n, c), m) = (q.dims3()?, k.dim(1)?);
    let dim = c / op.heads;
    let split = |t: &Tensor, n| t.contiguous()?.reshape((b, n, op.heads, dim))?.transpose(1, 2)?.contiguous();
    let scores = (split(q, n)?.matmul(&split(k, m)?.t()?.contiguous()?)? / (dim as f64).sqrt())?;
    let hidden: Vec<f32> = (0..n * m).map(|i| if op.causal && i % m > i / m { -1e9 } else { 0.0 }).collect();
    let scores = scores.broadcast_add(&Tensor::from_vec(hidden, (n, m), q.device())?)?;
    let weights = candle_nn::ops::softmax(&scores, 3)?;
    weights.matmul(&split(v, m)?)?.transpose(1, 2)?.contiguous()?.reshape((b, n, c))
}

/// Every pixel twice in each direction.
pub(super) fn doubled(x: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let ones = Tensor::ones((1, 1, 2, 1, 2, 1), x.dtype(), x.device())?;
    x.reshape((b, h, 1, w, 1, c))?.broadcast_mul(&ones)?.reshape((b, 2 * h, 2 * w, c))
}
