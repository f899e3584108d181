//! Frozen group normalisation over `(b, h, w, c)`, with or without SiLU behind it.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::composed::{NormTensors, Op1, Place};
use super::fresh::zeros;
use super::simd::{sigmoid, vectorised};
use super::tape::Value;
use super::{placed, values};

/// Pixels of one piece of work.
const PIECE: usize = 128;

/// What follows the normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing.
    Nothing,
    /// x · sigmoid(x).
    Silu,
}

/// Normalises each group of channels of each sample over all its pixels.
#[derive(Clone, Debug)]
pub(crate) struct GroupNorm(Arc<Weights>);

#[derive(Debug)]
struct Weights {
    weight: Vec<f32>,
    bias: Vec<f32>,
    groups: usize,
    epsilon: f64,
    then: Then,
    /// Where there are no kernels.
    tensors: Option<NormTensors>,
}

impl GroupNorm {
    /// From `weight` and `bias`, both `(c)` with `c` a multiple of `groups`.
    pub(crate) fn new(weight: Vec<f32>, bias: Vec<f32>, groups: usize, epsilon: f64, then: Then) -> Self {
        assert!(weight.len() == bias.len() && weight.len().is_multiple_of(groups));
        Self(Arc::new(Weights { weight, bias, groups, epsilon, then, tensors: None }))
    }

    /// This norm at a place without kernels.
    pub(crate) fn at(self, place: &Place) -> Result<Self> {
        let Weights { weight, bias, groups, epsilon, then, .. } = &*self.0;
        let tensors = Some(NormTensors::new(weight, bias, *epsilon, place)?);
        let (weight, bias, groups, epsilon, then) = (weight.clone(), bias.clone(), *groups, *epsilon, *then);
        Ok(Self(Arc::new(Weights { weight, bias, groups, epsilon, then, tensors })))
    }

    /// `(b, h, w, c)` to the same shape.
    pub(crate) fn forward(&self, x: &Value) -> Result<Value> {
        x.apply(Forward { norm: self.clone(), moments: OnceLock::new() })
    }

    /// Values of one sample, after a check of the shape.
    fn sample_len(&self, shape: &Shape) -> Result<usize> {
        let (_, h, w, c) = shape.dims4()?;
        if c != self.0.weight.len() {
            bail!("a group norm of {} channels was given {shape:?}", self.0.weight.len());
        }
        Ok(h * w * c)
    }

    /// Mean and reciprocal standard deviation of every group of every sample.
    fn moments(&self, x: &[f32], sample: usize) -> Vec<Moments> {
        let Weights { groups, epsilon, weight, .. } = &*self.0;
        let channels = weight.len();
        let pieces: Vec<Vec<Spread>> = x
            .par_chunks(sample)
            .flat_map(|sample| sample.par_chunks(PIECE * channels))
            .map(|piece| spreads(piece, channels, *groups))
            .collect();
        let per_sample = (sample / channels).div_ceil(PIECE);
        let merge = |pieces: &[Vec<Spread>], group: usize| {
            pieces.iter().map(|piece| piece[group]).fold(Spread::default(), Spread::merge).moments(*epsilon)
        };
        pieces.chunks(per_sample).flat_map(|pieces| (0..*groups).map(move |group| merge(pieces, group))).collect()
    }

    /// Per channel: the factor and the offset that normalise, scale and shift in one go.
    fn affine(&self, moments: &[Moments]) -> (Vec<f32>, Vec<f32>) {
        let Weights { weight, bias, groups, .. } = &*self.0;
        let group = |c: usize| moments[c / (weight.len() / groups)];
        let factor: Vec<f32> = weight.iter().enumerate().map(|(c, w)| w * group(c).scale).collect();
        let offset = bias.iter().enumerate().map(|(c, b)| b - group(c).mean * factor[c]).collect();
        (factor, offset)
    }
}

#[derive(Clone, Copy, Debug)]
struct Moments {
    mean: f32,
    /// 1 / sqrt(variance + ε).
    scale: f32,
}

/// Count, mean and sum of squared distances from the mean.
#[derive(Clone, Copy, Default)]
struct Spread {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Spread {
    /// Of the union (Chan, Golub and LeVeque 1979).
    fn merge(self, other: Self) -> Self {
        let count = self.count + other.count;
        let gap = other.mean - self.mean;
        let mean = self.mean + gap * other.count / count;
        let squares = self.squares + other.squares + gap * gap * self.count * other.count / count;
        Self { count, mean, squares }
    }

    fn moments(self, epsilon: f64) -> Moments {
        let scale = 1.0 / (self.squares / self.count + epsilon).sqrt();
        Moments { mean: self.mean as f32, scale: scale as f32 }
    }
}

vectorised! {
    /// The spread of every group within one piece.
    fn spreads(piece: &[f32], channels: usize, groups: usize) -> Vec<Spread> {
        let width = channels / groups;
        let count = (piece.len() / groups) as f64;
        let mut sums = vec![0f32; channels];
        for row in piece.chunks_exact(channels) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += x;
            }
        }
        let means: Vec<f64> =
            sums.chunks_exact(width).map(|s| s.iter().map(|s| f64::from(*s)).sum::<f64>() / count).collect();
        let centres: Vec<f32> = (0..channels).map(|c| means[c / width] as f32).collect();
        sums.fill(0.0);
        for row in piece.chunks_exact(channels) {
            for ((sum, x), centre) in sums.iter_mut().zip(row).zip(&centres) {
                *sum += (x - centre) * (x - centre);
            }
        }
        let squares = sums.chunks_exact(width).map(|s| s.iter().map(|s| f64::from(*s)).sum::<f64>());
        means.iter().zip(squares).map(|(&mean, squares)| Spread { count, mean, squares }).collect()
    }
}

struct Forward {
    norm: GroupNorm,
    /// Kept for the backward pass.
    moments: OnceLock<Vec<Moments>>,
}

impl CustomOp1 for Forward {
    fn name(&self) -> &'static str {
        "frozen-group-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, sample) = (values(storage, layout)?, self.norm.sample_len(layout.shape())?);
        let Weights { weight, groups, then, .. } = &*self.norm.0;
        let moments = self.moments.get_or_init(|| self.norm.moments(x, sample));
        let mut out = zeros(x.len());
        let samples = out.par_chunks_mut(sample).zip(x.par_chunks(sample)).zip(moments.par_chunks(*groups));
        samples.for_each(|((out, x), moments)| {
            let (factor, offset) = self.norm.affine(moments);
            let piece = PIECE * weight.len();
            out.par_chunks_mut(piece).zip(x.par_chunks(piece)).for_each(|(out, x)| {
                normalise(out, x, &factor, &offset, *then);
            });
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let moments = self.moments.get().cloned().unwrap_or_default();
        x.apply_op2_no_bwd(gradient, &Gradient { norm: self.norm.clone(), moments }).map(Some)
    }
}

impl Op1 for Forward {
    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let Weights { groups, then, tensors, .. } = &*self.norm.0;
        self.norm.sample_len(x.shape())?;
        placed(tensors.as_ref())?.groups(x, *groups, *then)
    }

    fn composed_back(&self, x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let Weights { groups, then, tensors, .. } = &*self.norm.0;
        placed(tensors.as_ref())?.groups_back(x, gradient, *groups, *then)
    }
}

vectorised! {
    fn normalise(out: &mut [f32], x: &[f32], factor: &[f32], offset: &[f32], then: Then) {
        let c = factor.len();
        for (out, x) in out.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            for i in 0..c {
                out[i] = x[i] * factor[i] + offset[i];
            }
            if then == Then::Silu {
                for y in out {
                    *y *= sigmoid(*y);
                }
            }
        }
    }
}

struct Gradient {
    norm: GroupNorm,
    moments: Vec<Moments>,
}

impl CustomOp2 for Gradient {
    fn name(&self) -> &'static str {
        "frozen-group-norm-gradient"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, g, sample) = (values(x, lx)?, values(g, lg)?, self.norm.sample_len(lx.shape())?);
        let mut out = zeros(x.len());
        let samples = out.par_chunks_mut(sample).zip(x.par_chunks(sample)).zip(g.par_chunks(sample));
        samples.zip(self.moments.par_chunks(self.norm.0.groups)).for_each(|(((out, x), g), moments)| {
            self.sample_gradient(out, x, g, moments);
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}

impl Gradient {
    /// With x̂ the normalised values of a group and h = gradient · weight:
    /// `(h - mean(h) - x̂ · mean(h · x̂)) / σ`, in two passes over the pixels.
    fn sample_gradient(&self, out: &mut [f32], x: &[f32], g: &[f32], moments: &[Moments]) {
        let Weights { weight, groups, then, .. } = &*self.norm.0;
        let (channels, width) = (weight.len(), weight.len() / groups);
        let means: Vec<f32> = (0..channels).map(|c| moments[c / width].mean).collect();
        let (factor, offset) = self.norm.affine(moments);
        let piece = PIECE * channels;
        let pieces = out.par_chunks_mut(piece).zip(x.par_chunks(piece)).zip(g.par_chunks(piece));
        let sums: Vec<Sums> =
            pieces.map(|((out, x), g)| through_activation(out, x, g, &factor, &offset, &means, *then)).collect();

        let count = (out.len() / groups) as f64;
        let (mut slope, mut level) = (vec![0f32; channels], vec![0f32; channels]);
        for (group, Moments { scale, .. }) in moments.iter().enumerate() {
            let within = group * width..(group + 1) * width;
            let total = |pick: fn(&Sums) -> &[f32]| -> f64 {
                let of = |s: &Sums| within.clone().map(|c| f64::from(pick(s)[c]) * f64::from(weight[c])).sum::<f64>();
                sums.iter().map(of).sum::<f64>() / count
            };
            let (scale, h, hx) = (f64::from(*scale), total(|s| &s.plain), total(|s| &s.centred));
            slope[within.clone()].fill((-scale.powi(3) * hx) as f32);
            level[within].fill((-scale * h) as f32);
        }
        out.par_chunks_mut(piece).zip(x.par_chunks(piece)).for_each(|(out, x)| {
            through_norm(out, x, &factor, &slope, &level, &means);
        });
    }
}

/// Sums over pixels, per channel, of the gradient behind the activation: alone, and times `x - mean`.
struct Sums {
    plain: Vec<f32>,
    centred: Vec<f32>,
}

vectorised! {
    /// Writes the gradient with respect to the normalised, scaled and shifted values.
    fn through_activation(
        out: &mut [f32],
        x: &[f32],
        g: &[f32],
        factor: &[f32],
        offset: &[f32],
        means: &[f32],
        then: Then,
    ) -> Sums {
        let c = factor.len();
        let (mut plain, mut centred) = (vec![0f32; c], vec![0f32; c]);
        for ((out, x), g) in out.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(g.chunks_exact(c)) {
            match then {
                Then::Nothing => out.copy_from_slice(g),
                Then::Silu => {
                    for i in 0..c {
                        let y = x[i] * factor[i] + offset[i];
                        let s = sigmoid(y);
                        out[i] = g[i] * s * (1.0 + y * (1.0 - s));
                    }
                }
            }
            for i in 0..c {
                plain[i] += out[i];
                centred[i] += out[i] * (x[i] - means[i]);
            }
        }
        Sums { plain, centred }
    }

    fn through_norm(out: &mut [f32], x: &[f32], factor: &[f32], slope: &[f32], level: &[f32], means: &[f32]) {
        let c = factor.len();
        for (out, x) in out.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            for i in 0..c {
                out[i] = out[i] * factor[i] + (x[i] - means[i]) * slope[i] + level[i];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{constant, frozen_agree, noise};
    use super::super::to_vec;
    use super::*;

    fn reference(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, then: Then) -> Result<Tensor> {
        let (b, h, w, c) = x.dims4()?;
        let grouped = x.reshape((b, h * w, groups, c / groups))?;
        let mean = |t: &Tensor| t.mean_keepdim(3)?.mean_keepdim(1);
        let centred = grouped.broadcast_sub(&mean(&grouped)?)?;
        let deviation = (mean(&centred.sqr()?)? + 1e-5)?.sqrt()?;
        let y = centred.broadcast_div(&deviation)?.reshape((b, h, w, c))?.broadcast_mul(weight)?.broadcast_add(bias)?;
        match then {
            Then::Nothing => Ok(y),
            Then::Silu => (&y / ((y.neg()?.exp())? + 1.0)?)?.contiguous(),
        }
    }

    #[test]
    fn a_group_norm_agrees_with_its_formula() {
        for (b, h, w, c, groups) in [(2, 3, 5, 6, 3), (1, 17, 19, 20, 4), (3, 1, 2, 48, 16)] {
            for then in [Then::Nothing, Then::Silu] {
                let (weight, bias) = (noise(1, &[c]), noise(2, &[c]));
                let norm = GroupNorm::new(to_vec(&weight).unwrap(), to_vec(&bias).unwrap(), groups, 1e-5, then);
                let x = (noise(3, &[b, h, w, c]) + 1.5).unwrap();
                frozen_agree(&[x], |a| norm.forward(&a[0]), |a| reference(&a[0], &weight, &bias, groups, then));
            }
        }
    }

    #[test]
    fn a_large_mean_costs_no_precision() {
        let norm = GroupNorm::new(vec![1.0; 4], vec![0.0; 4], 2, 1e-5, Then::Nothing);
        let x = noise(3, &[1, 31, 33, 4]);
        let near = norm.forward(&constant(&x)).unwrap();
        let far = norm.forward(&constant(&(x + 64.0).unwrap())).unwrap();
        assert!(super::super::testing::gap(near.tensor(), far.tensor()) < 1e-4);
    }
}
