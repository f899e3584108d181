//! Frozen layer normalisation.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::composed::{NormTensors, Op1, Place};
use super::fresh::zeros;
use super::simd::{sum, sum2, vectorised};
use super::tape::Value;
use super::{placed, values};

/// Rows of one piece of work.
const PIECE: usize = 64;

/// Normalises the last dimension: `(x - mean) / sqrt(variance + ε) · weight + bias`.
#[derive(Clone, Debug)]
pub(crate) struct LayerNorm(Arc<Weights>);

#[derive(Debug)]
struct Weights {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
    /// Where there are no kernels.
    tensors: Option<NormTensors>,
}

impl LayerNorm {
    /// From `weight` and `bias`, both `(c)`.
    pub(crate) fn new(weight: Vec<f32>, bias: Vec<f32>, epsilon: f64) -> Self {
        assert_eq!(weight.len(), bias.len());
        Self(Arc::new(Weights { weight, bias, epsilon: epsilon as f32, tensors: None }))
    }

    /// This norm at a place without kernels.
    pub(crate) fn at(self, place: &Place) -> Result<Self> {
        let Weights { weight, bias, epsilon, .. } = &*self.0;
        let tensors = Some(NormTensors::new(weight, bias, f64::from(*epsilon), place)?);
        let (weight, bias, epsilon) = (weight.clone(), bias.clone(), *epsilon);
        Ok(Self(Arc::new(Weights { weight, bias, epsilon, tensors })))
    }

    /// `(…, c)` to `(…, c)`.
    pub(crate) fn forward(&self, x: &Value) -> Result<Value> {
        x.apply(self.clone())
    }
}

/// Mean and reciprocal standard deviation.
#[inline(always)]
fn moments(row: &[f32], epsilon: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = sum(row, |x| x) / n;
    let variance = sum(row, |x| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

vectorised! {
    fn normalise(out: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) {
        let width = weight.len();
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let (mean, scale) = moments(x, epsilon);
            for i in 0..width {
                out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
            }
        }
    }

    fn gradients(out: &mut [f32], x: &[f32], g: &[f32], weight: &[f32], epsilon: f32) {
        let width = weight.len();
        for ((out, x), g) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(g.chunks_exact(width)) {
            row_gradient(out, x, g, weight, epsilon);
        }
    }
}

impl CustomOp1 for LayerNorm {
    fn name(&self) -> &'static str {
        "frozen-layer-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Weights { weight, bias, epsilon, .. } = &*self.0;
        let width = weight.len();
        if layout.dims().last() != Some(&width) {
            bail!("a layer norm of width {width} was given {:?}", layout.shape());
        }
        let x = values(storage, layout)?;
        let mut out = zeros(x.len());
        out.par_chunks_mut(PIECE * width).zip(x.par_chunks(PIECE * width)).for_each(|(out, x)| {
            normalise(out, x, weight, bias, *epsilon);
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        x.apply_op2_no_bwd(gradient, &Gradient(self.clone())).map(Some)
    }
}

impl Op1 for LayerNorm {
    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        placed(self.0.tensors.as_ref())?.rows(x)
    }

    fn composed_back(&self, x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        placed(self.0.tensors.as_ref())?.rows_back(x, gradient)
    }
}

struct Gradient(LayerNorm);

impl CustomOp2 for Gradient {
    fn name(&self) -> &'static str {
        "frozen-layer-norm-gradient"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let Weights { weight, epsilon, .. } = &*self.0.0;
        let (x, g, width) = (values(x, lx)?, values(g, lg)?, weight.len());
        let mut out = zeros(x.len());
        let pieces =
            out.par_chunks_mut(PIECE * width).zip(x.par_chunks(PIECE * width)).zip(g.par_chunks(PIECE * width));
        pieces.for_each(|((out, x), g)| {
            gradients(out, x, g, weight, *epsilon);
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}

/// With x̂ the normalised row and h = gradient · weight: `(h - mean(h) - x̂ · mean(h · x̂)) / σ`.
#[inline(always)]
fn row_gradient(out: &mut [f32], x: &[f32], g: &[f32], weight: &[f32], epsilon: f32) {
    let n = x.len();
    let (x, g, weight) = (&x[..n], &g[..n], &weight[..n]);
    let (mean, scale) = moments(x, epsilon);
    for i in 0..n {
        out[i] = g[i] * weight[i];
    }
    let offset = sum(out, |h| h) / n as f32;
    let slope = sum2(out, x, |h, x| h * (x - mean)) * scale * scale / n as f32;
    for i in 0..n {
        out[i] = (out[i] - offset - (x[i] - mean) * slope) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{frozen_agree, noise};
    use super::super::to_vec;
    use super::*;

    #[test]
    fn a_layer_norm_agrees_with_its_formula() {
        for (rows, width) in [(3, 5), (130, 48), (1, 67)] {
            let (weight, bias) = (noise(1, &[width]), noise(2, &[width]));
            let norm = LayerNorm::new(to_vec(&weight).unwrap(), to_vec(&bias).unwrap(), 1e-5);
            frozen_agree(
                &[noise(3, &[2, rows, width])],
                |a| norm.forward(&a[0]),
                |a| {
                    let centred = a[0].broadcast_sub(&a[0].mean_keepdim(2)?)?;
                    let deviation = (centred.sqr()?.mean_keepdim(2)? + 1e-5)?.sqrt()?;
                    centred.broadcast_div(&deviation)?.broadcast_mul(&weight)?.broadcast_add(&bias)
                },
            );
        }
    }
}
