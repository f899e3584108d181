//! Element-wise activations and the gated feed-forward's GEGLU.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::composed::{self, Op1};
use super::fresh::zeros;
use super::simd::{normal_cdf, normal_pdf, sigmoid, vectorised};
use super::tape::Value;
use super::values;

/// Values of one piece of work.
const PIECE: usize = 1 << 14;

/// An element-wise function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// x · sigmoid(1.702 x), as CLIP was trained by OpenAI.
    QuickGelu,
    /// x · Φ(x), with the exact normal distribution function.
    Gelu,
}

impl Activation {
    /// `f(x)`, any shape.
    pub(crate) fn forward(self, x: &Value) -> Result<Value> {
        x.apply(self)
    }

    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        match self {
            Self::Silu => x * sigmoid(x),
            Self::QuickGelu => x * sigmoid(1.702 * x),
            Self::Gelu => x * normal_cdf(x),
        }
    }

    #[inline(always)]
    fn slope(self, x: f32) -> f32 {
        let gated = |k: f32| {
            let s = sigmoid(k * x);
            s * (1.0 + k * x * (1.0 - s))
        };
        match self {
            Self::Silu => gated(1.0),
            Self::QuickGelu => gated(1.702),
            Self::Gelu => normal_cdf(x) + x * normal_pdf(x),
        }
    }
}

vectorised! {
    /// Writes `f(x)`, element by element.
    fn write_values(f: Activation, out: &mut [f32], x: &[f32]) {
        let all = out.iter_mut().zip(x);
        // A loop for each function: one that chose in every turn would not be vectorised.
        match f {
            Activation::Silu => for (out, x) in all { *out = Activation::Silu.value(*x) },
            Activation::QuickGelu => for (out, x) in all { *out = Activation::QuickGelu.value(*x) },
            Activation::Gelu => for (out, x) in all { *out = Activation::Gelu.value(*x) },
        }
    }

    /// Writes `g · f'(x)`, element by element.
    fn write_slopes(f: Activation, out: &mut [f32], x: &[f32], g: &[f32]) {
        let all = out.iter_mut().zip(x).zip(g);
        match f {
            Activation::Silu => for ((out, x), g) in all { *out = g * Activation::Silu.slope(*x) },
            Activation::QuickGelu => for ((out, x), g) in all { *out = g * Activation::QuickGelu.slope(*x) },
            Activation::Gelu => for ((out, x), g) in all { *out = g * Activation::Gelu.slope(*x) },
        }
    }

    /// See [`geglu`], of rows of `2n` values.
    fn write_gated(n: usize, out: &mut [f32], x: &[f32]) {
        for (out, x) in out.chunks_exact_mut(n).zip(x.chunks_exact(2 * n)) {
            let (a, gate) = x.split_at(n);
            for ((out, a), gate) in out.iter_mut().zip(a).zip(gate) {
                *out = a * Activation::Gelu.value(*gate);
            }
        }
    }

    /// Writes the gradient of rows of `2n` values from that `g` of what [`geglu`] gives of them.
    fn write_gated_slopes(n: usize, out: &mut [f32], x: &[f32], g: &[f32]) {
        for ((out, x), g) in out.chunks_exact_mut(2 * n).zip(x.chunks_exact(2 * n)).zip(g.chunks_exact(n)) {
            let ((da, dgate), (a, gate)) = (out.split_at_mut(n), x.split_at(n));
            let (da, dgate, a, gate) = (&mut da[..n], &mut dgate[..n], &a[..n], &gate[..n]);
            for i in 0..n {
                let cdf = normal_cdf(gate[i]);
                da[i] = g[i] * gate[i] * cdf;
                dgate[i] = g[i] * a[i] * (cdf + gate[i] * normal_pdf(gate[i]));
            }
        }
    }
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let mut out = zeros(x.len());
        out.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(out, x)| write_values(*self, out, x));
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        x.apply_op2_no_bwd(gradient, &Slope(*self)).map(Some)
    }
}

impl Op1 for Activation {
    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        composed::value(*self, x)
    }

    fn composed_back(&self, x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        gradient * composed::slope(*self, x)?
    }
}

struct Slope(Activation);

impl CustomOp2 for Slope {
    fn name(&self) -> &'static str {
        "activation-gradient"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, g) = (values(x, lx)?, values(g, lg)?);
        let mut out = zeros(x.len());
        let pieces = out.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).zip(g.par_chunks(PIECE));
        pieces.for_each(|((out, x), g)| write_slopes(self.0, out, x, g));
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}

/// `(…, 2n)` to `(…, n)`: the first half times GELU (exact) of the second.
pub(crate) fn geglu(x: &Value) -> Result<Value> {
    x.apply(Geglu)
}

struct Geglu;

/// Half of the last dimension.
fn half(shape: &Shape) -> Result<usize> {
    match shape.dims().last() {
        Some(n) if n.is_multiple_of(2) => Ok(n / 2),
        _ => bail!("GEGLU wants an even last dimension, not {shape:?}"),
    }
}

impl CustomOp1 for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, n) = (values(storage, layout)?, half(layout.shape())?);
        let mut dims = layout.dims().to_vec();
        dims.pop();
        dims.push(n);
        let mut out = zeros(x.len() / 2);
        let rows = PIECE.div_ceil(n);
        let pieces = out.par_chunks_mut(rows * n).zip(x.par_chunks(rows * 2 * n));
        pieces.for_each(|(out, x)| write_gated(n, out, x));
        Ok((CpuStorage::F32(out), Shape::from(dims)))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        x.apply_op2_no_bwd(gradient, &GegluGradient).map(Some)
    }
}

impl Op1 for Geglu {
    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        composed::geglu(x)
    }

    fn composed_back(&self, x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        composed::geglu_back(x, gradient)
    }
}

struct GegluGradient;

impl CustomOp2 for GegluGradient {
    fn name(&self) -> &'static str {
        "geglu-gradient"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, g, n) = (values(x, lx)?, values(g, lg)?, half(lx.shape())?);
        let mut out = zeros(x.len());
        let rows = PIECE.div_ceil(2 * n);
        let pieces = out.par_chunks_mut(rows * 2 * n).zip(x.par_chunks(rows * 2 * n)).zip(g.par_chunks(rows * n));
        pieces.for_each(|((out, x), g)| write_gated_slopes(n, out, x, g));
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{constant, frozen_agree, noise};
    use super::*;

    #[test]
    fn activations_agree_with_their_formulas() {
        let gated = |x: &Tensor, k: f64| (x / ((x * -k)?.exp()? + 1.0)?)?.contiguous();
        for shape in [[2, 3, 5], [3, 101, 67]] {
            let x = (noise(1, &shape) * 3.0).unwrap();
            frozen_agree(std::slice::from_ref(&x), |a| Activation::Silu.forward(&a[0]), |a| gated(&a[0], 1.0));
            frozen_agree(std::slice::from_ref(&x), |a| Activation::QuickGelu.forward(&a[0]), |a| gated(&a[0], 1.702));
            frozen_agree(std::slice::from_ref(&x), |a| Activation::Gelu.forward(&a[0]), |a| a[0].gelu_erf());
        }
    }

    #[test]
    fn geglu_agrees_with_its_formula() {
        for (rows, n) in [(3, 5), (700, 48)] {
            frozen_agree(
                &[(noise(1, &[2, rows, 2 * n]) * 2.0).unwrap()],
                |a| geglu(&a[0]),
                |a| a[0].narrow(2, 0, n)? * a[0].narrow(2, n, n)?.gelu_erf()?,
            );
        }
        assert!(geglu(&constant(&noise(1, &[2, 3]))).is_err());
    }
}
