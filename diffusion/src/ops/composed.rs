//! The frozen ops and their gradients as compositions of candle's own: for GPUs, and for precisions that the kernels beside
//! this file do not know. On the CPU in f64 the very same code is held to PyTorch's goldens.
//!
//! Pictures are `(b, h, w, c)`, tokens `(b, n, c)`, as everywhere. Means, variances and softmax are taken in f32 at least.

use std::f64::consts::{FRAC_1_SQRT_2, PI};
use std::sync::OnceLock;

use candle_core::{CustomOp1, CustomOp2, D, DType, Device, Result, Tensor, bail};

use super::activation::Activation;
use super::attention::Attention;
use super::conv::Stride;
use super::glue::Splice;
use super::group_norm::Then;

/// Where a network lives, and in which precision it is computed.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) device: Device,
    pub(crate) dtype: DType,
}

impl Default for Place {
    /// That of the kernels.
    fn default() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32 }
    }
}

impl Place {
    /// True if the kernels of `ops` compute there.
    pub(crate) fn has_kernels(&self) -> bool {
        self.device.is_cpu() && self.dtype == DType::F32
    }

    /// Values as a tensor of this place.
    pub(crate) fn tensor(&self, values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)?.to_device(&self.device)
    }
}

/// True if the kernels of `ops` compute what is done to `x`.
fn has_kernel(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// What the way back of an op reads; the tape keeps nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// Shapes alone.
    Nothing,
    /// The values of what it is applied to.
    Input,
    /// Those, and of its result.
    Result,
}

/// An op of one value: a kernel and its gradient for f32 on the CPU, compositions for everything else.
pub(crate) trait Op1: CustomOp1 + Send + Sync {
    fn composed(&self, x: &Tensor) -> Result<Tensor>;

    /// The gradient with respect to `x`, from that of the result.
    fn composed_back(&self, x: &Tensor, gradient: &Tensor) -> Result<Tensor>;

    /// The result, contiguous and outside candle's graph.
    fn run(&self, x: &Tensor) -> Result<Tensor>
    where
        Self: Sized,
    {
        if has_kernel(x) { x.apply_op1_no_bwd(self) } else { self.composed(x)?.contiguous() }
    }

    /// What [`Self::back`] is to be given.
    fn reads(&self) -> Reads {
        Reads::Input
    }

    /// The gradient with respect to `x`, contiguous, from what it reads of `x` and the `result`, and from the `gradient` of the result.
    fn back(&self, x: &Tensor, result: Option<&Tensor>, gradient: &Tensor) -> Result<Tensor> {
        if !has_kernel(x) {
            return self.composed_back(x, gradient)?.contiguous();
        }
        match self.bwd(x, result.unwrap_or(gradient), gradient)? {
            Some(gradient) => Ok(gradient),
            None => bail!("{} gave no gradient", self.name()),
        }
    }
}

/// An op of two values, as [`Op1`].
pub(crate) trait Op2: CustomOp2 + Send + Sync {
    fn composed(&self, a: &Tensor, b: &Tensor) -> Result<Tensor>;

    /// The gradients with respect to both.
    fn composed_back(&self, a: &Tensor, b: &Tensor, gradient: &Tensor) -> Result<[Tensor; 2]>;

    /// The result, contiguous and outside candle's graph.
    fn run(&self, a: &Tensor, b: &Tensor) -> Result<Tensor>
    where
        Self: Sized,
    {
        if has_kernel(a) { a.apply_op2_no_bwd(b, self) } else { self.composed(a, b)?.contiguous() }
    }

    /// See [`Op1::reads`].
    fn reads(&self) -> Reads {
        Reads::Input
    }

    /// The gradients with respect to both, contiguous; see [`Op1::back`].
    fn back(&self, [a, b]: [&Tensor; 2], result: Option<&Tensor>, gradient: &Tensor) -> Result<[Option<Tensor>; 2]> {
        if has_kernel(a) {
            return self.bwd(a, b, result.unwrap_or(gradient), gradient).map(|(a, b)| [a, b]);
        }
        let [a, b] = self.composed_back(a, b, gradient)?;
        Ok([Some(a.contiguous()?), Some(b.contiguous()?)])
    }
}

/// f32 for halves; what is wider stays.
fn widened(x: &Tensor) -> Result<Tensor> {
    if matches!(x.dtype(), DType::F16 | DType::BF16) { x.to_dtype(DType::F32) } else { Ok(x.clone()) }
}

/// A frozen linear layer: `weight` `(outputs, inputs)`, `bias` `(outputs)`.
#[derive(Debug)]
pub(super) struct LinearTensors {
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
}

impl LinearTensors {
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = rows_times(x, &self.weight.t()?)?;
        self.bias.as_ref().map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
    }

    pub(super) fn back(&self, gradient: &Tensor) -> Result<Tensor> {
        rows_times(gradient, &self.weight)
    }
}

/// `x` `(…, m)` times `matrix` `(m, n)` as one product.
fn rows_times(x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let rows = x.flatten_to(x.rank().saturating_sub(2))?.matmul(matrix)?;
    if let Some(last) = shape.last_mut() {
        *last = matrix.dim(1)?;
    }
    rows.reshape(shape)
}

/// A frozen 3×3 convolution: `weight` `(outputs, inputs, 3, 3)`, `bias` `(outputs)`.
#[derive(Debug)]
pub(super) struct ConvTensors {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    /// The filter of the way back, turned by 180° and with its channels exchanged; made when it is first wanted.
    pub(super) turned: OnceLock<Tensor>,
}

impl ConvTensors {
    pub(super) fn forward(&self, x: &Tensor, stride: Stride) -> Result<Tensor> {
        let x = channels_first(x)?;
        let y = match stride {
            Stride::One => x.conv2d(&self.weight, 1, 1, 1, 1)?,
            Stride::Two => x.conv2d(&self.weight, 1, 2, 1, 1)?,
            Stride::TwoPadEnd => {
                x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?.conv2d(&self.weight, 0, 2, 1, 1)?
            }
        };
        channels_last(&y)?.broadcast_add(&self.bias)
    }

    /// The gradient of an input of sides `(h, w)`.
    pub(super) fn back(&self, gradient: &Tensor, stride: Stride, (h, w): (usize, usize)) -> Result<Tensor> {
        let gradient = channels_first(gradient)?;
        let x = match stride {
            Stride::One => gradient.conv2d(self.turned()?, 1, 1, 1, 1)?,
            // The whole transposed convolution begins where the padding did.
            Stride::Two => part(&gradient.conv_transpose2d(&self.weight, 0, 0, 2, 1)?, 1, (h, w))?,
            Stride::TwoPadEnd => part(&gradient.conv_transpose2d(&self.weight, 0, 0, 2, 1)?, 0, (h, w))?,
        };
        channels_last(&x)
    }

    fn turned(&self) -> Result<&Tensor> {
        if let Some(turned) = self.turned.get() {
            return Ok(turned);
        }
        let turned = self.weight.transpose(0, 1)?.contiguous()?.flip(&[2, 3])?.contiguous()?;
        Ok(self.turned.get_or_init(|| turned))
    }
}

/// Rows and columns `from..from + side` of `(b, c, h, w)`.
fn part(x: &Tensor, from: usize, (h, w): (usize, usize)) -> Result<Tensor> {
    x.narrow(2, from, h)?.narrow(3, from, w)
}

pub(super) fn channels_first(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 3, 1, 2))?.contiguous()
}

pub(super) fn channels_last(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 2, 3, 1))?.contiguous()
}

/// Weight and bias `(c)` of a norm, in f32 at least.
#[derive(Debug)]
pub(super) struct NormTensors {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl NormTensors {
    pub(super) fn new(weight: &[f32], bias: &[f32], epsilon: f64, place: &Place) -> Result<Self> {
        let dtype = if place.dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let place = Place { device: place.device.clone(), dtype };
        let tensor = |values: &[f32]| place.tensor(values.to_vec(), &[values.len()]);
        Ok(Self { weight: tensor(weight)?, bias: tensor(bias)?, epsilon })
    }

    /// Normalises the last dimension of `x`.
    pub(super) fn rows(&self, x: &Tensor) -> Result<Tensor> {
        let (normal, _) = self.normal(&widened(x)?, &[x.rank() - 1])?;
        self.affine(&normal)?.to_dtype(x.dtype())
    }

    pub(super) fn rows_back(&self, x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let last = [x.rank() - 1];
        let (normal, scale) = self.normal(&widened(x)?, &last)?;
        let slope = widened(gradient)?.broadcast_mul(&self.weight)?;
        through_norm(&slope, &normal, &scale, &last)?.to_dtype(x.dtype())
    }

    /// Normalises groups of channels of a picture over all its pixels.
    pub(super) fn groups(&self, x: &Tensor, groups: usize, then: Then) -> Result<Tensor> {
        let (normal, _) = self.normal(&grouped(&widened(x)?, groups)?, &[1, 3])?;
        let y = self.affine(&normal.reshape(x.shape())?)?;
        let y = if then == Then::Silu { value(Activation::Silu, &y)? } else { y };
        y.to_dtype(x.dtype())
    }

    pub(super) fn groups_back(&self, x: &Tensor, gradient: &Tensor, groups: usize, then: Then) -> Result<Tensor> {
        let (normal, scale) = self.normal(&grouped(&widened(x)?, groups)?, &[1, 3])?;
        let mut gradient = widened(gradient)?;
        if then == Then::Silu {
            let y = self.affine(&normal.reshape(x.shape())?)?;
            gradient = (gradient * slope(Activation::Silu, &y)?)?;
        }
        let slope = grouped(&gradient.broadcast_mul(&self.weight)?, groups)?;
        through_norm(&slope, &normal, &scale, &[1, 3])?.reshape(x.shape())?.to_dtype(x.dtype())
    }

    fn affine(&self, normal: &Tensor) -> Result<Tensor> {
        normal.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }

    /// Mean 0 and variance 1 over `dims`, and the reciprocal standard deviation.
    fn normal(&self, x: &Tensor, dims: &[usize]) -> Result<(Tensor, Tensor)> {
        let centred = x.broadcast_sub(&x.mean_keepdim(dims)?)?;
        let scale = (centred.sqr()?.mean_keepdim(dims)? + self.epsilon)?.sqrt()?.recip()?;
        Ok((centred.broadcast_mul(&scale)?, scale))
    }
}

/// `(b, h, w, c)` as `(b, h·w, groups, c / groups)`.
fn grouped(x: &Tensor, groups: usize) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    x.reshape((b, h * w, groups, c / groups))
}

/// With x̂ the normalised values and h the gradient of theirs: `(h - mean(h) - x̂ · mean(h · x̂)) / σ`.
fn through_norm(h: &Tensor, normal: &Tensor, scale: &Tensor, dims: &[usize]) -> Result<Tensor> {
    let along = normal.broadcast_mul(&(h * normal)?.mean_keepdim(dims)?)?;
    (h.broadcast_sub(&h.mean_keepdim(dims)?)? - along)?.broadcast_mul(scale)
}

/// 1 / (1 + e^-x).
fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// The normal distribution function.
fn normal_cdf(x: &Tensor) -> Result<Tensor> {
    ((x * FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5
}

pub(super) fn value(activation: Activation, x: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::QuickGelu => x * sigmoid(&(x * 1.702)?)?,
        Activation::Gelu => x.gelu_erf(),
    }
}

/// The derivative, in the precision of `x`: it is a sum of many terms, too many for halves.
pub(super) fn slope(activation: Activation, x: &Tensor) -> Result<Tensor> {
    wide_slope(activation, &widened(x)?)?.to_dtype(x.dtype())
}

fn wide_slope(activation: Activation, x: &Tensor) -> Result<Tensor> {
    let gated = |k: f64| {
        let scaled = (x * k)?;
        let s = sigmoid(&scaled)?;
        let rest = s.affine(-1.0, 1.0)?;
        &s * ((scaled * rest)? + 1.0)?
    };
    match activation {
        Activation::Silu => gated(1.0),
        Activation::QuickGelu => gated(1.702),
        Activation::Gelu => {
            let density = ((x.sqr()? * -0.5)?.exp()? * (2.0 * PI).sqrt().recip())?;
            normal_cdf(x)? + (x * density)?
        }
    }
}

/// Both halves of the last dimension.
fn halves(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let n = x.dim(D::Minus1)?;
    if !n.is_multiple_of(2) {
        bail!("GEGLU wants an even last dimension, not {:?}", x.shape());
    }
    Ok((x.narrow(D::Minus1, 0, n / 2)?.contiguous()?, x.narrow(D::Minus1, n / 2, n / 2)?.contiguous()?))
}

pub(super) fn geglu(x: &Tensor) -> Result<Tensor> {
    let (a, gate) = halves(x)?;
    a * value(Activation::Gelu, &gate)?
}

pub(super) fn geglu_back(x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let (a, gate) = halves(x)?;
    let da = (gradient * value(Activation::Gelu, &gate)?)?;
    let dgate = ((gradient * a)? * slope(Activation::Gelu, &gate)?)?;
    Tensor::cat(&[da, dgate], D::Minus1)
}

/// Attention of queries to keys and values, all `(b, n, c)`.
pub(super) fn attention(op: Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let weights = weights(op, &heads(op, q)?, &heads(op, k)?)?;
    beside(&weights.matmul(&heads(op, v)?)?)
}

/// The gradients of queries, keys and values. With P the weights and dP = g · vᵀ: dS = P ∘ (dP - rowsum(P ∘ dP)); dq = dS·k,
/// dk = dSᵀ·q, dv = Pᵀ·g.
pub(super) fn attention_back(
    op: Attention,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    gradient: &Tensor,
) -> Result<[Tensor; 3]> {
    let (q, k, v, g) = (heads(op, q)?, heads(op, k)?, heads(op, v)?, heads(op, gradient)?);
    let p = weights(op, &q, &k)?;
    let dv = p.t()?.contiguous()?.matmul(&g)?;
    let dp = widened(&g.matmul(&v.t()?.contiguous()?)?)?;
    let p = widened(&p)?;
    let mean = (&p * &dp)?.sum_keepdim(D::Minus1)?;
    let ds = ((p * dp.broadcast_sub(&mean)?)? * scale(&q)?)?.to_dtype(q.dtype())?;
    let dk = ds.t()?.contiguous()?.matmul(&q)?;
    Ok([beside(&ds.matmul(&k)?)?, beside(&dk)?, beside(&dv)?])
}

/// `(b, n, c)` as `(b, heads, n, c / heads)`.
fn heads(op: Attention, x: &Tensor) -> Result<Tensor> {
    let (b, n, c) = x.dims3()?;
    x.reshape((b, n, op.heads, c / op.heads))?.transpose(1, 2)?.contiguous()
}

/// The way back from [`heads`].
fn beside(x: &Tensor) -> Result<Tensor> {
    let (b, heads, n, dim) = x.dims4()?;
    x.transpose(1, 2)?.reshape((b, n, heads * dim))
}

fn scale(q: &Tensor) -> Result<f64> {
    Ok((q.dim(D::Minus1)? as f64).sqrt().recip())
}

fn weights(op: Attention, q: &Tensor, k: &Tensor) -> Result<Tensor> {
    let mut scores = (q.matmul(&k.t()?.contiguous()?)? * scale(q)?)?;
    if op.causal {
        let (n, m) = (q.dim(2)?, k.dim(2)?);
        let hidden = (0..n * m).map(|i| if i % m > i / m { f32::NEG_INFINITY } else { 0.0 }).collect();
        let place = Place { device: q.device().clone(), dtype: q.dtype() };
        scores = scores.broadcast_add(&place.tensor(hidden, &[n, m])?)?;
    }
    candle_nn::ops::softmax_last_dim(&scores)
}

/// Rows `sources.0` and columns `sources.1` of a picture; each may be wanted many times.
pub(super) fn repeated(x: &Tensor, (rows, columns): (&[usize], &[usize])) -> Result<Tensor> {
    x.index_select(&indices(rows, x)?, 1)?.index_select(&indices(columns, x)?, 2)
}

/// The gradient of a picture of sides `(h, w)` whose rows and columns were [`repeated`].
pub(super) fn repeated_back(
    gradient: &Tensor,
    (rows, columns): (&[usize], &[usize]),
    (h, w): (usize, usize),
) -> Result<Tensor> {
    let (b, height, _, c) = gradient.dims4()?;
    let zeros = |shape| Tensor::zeros(shape, gradient.dtype(), gradient.device());
    let narrow = zeros((b, height, w, c))?.index_add(&indices(columns, gradient)?, gradient, 2)?;
    zeros((b, h, w, c))?.index_add(&indices(rows, gradient)?, &narrow, 1)
}

fn indices(values: &[usize], like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values.iter().map(|value| *value as u32).collect(), values.len(), like.device())
}

/// `block` `(rows, d)` with learned rows added where `splices` say.
pub(super) fn spliced(learned: &Tensor, block: &[f32], splices: &[Splice]) -> Result<Tensor> {
    let (n, d) = learned.dims2()?;
    if let Some(splice) = splices.iter().find(|splice| splice.learned >= n) {
        bail!("a prompt names learned row {}, of {n}", splice.learned);
    }
    let place = Place { device: learned.device().clone(), dtype: learned.dtype() };
    let block = place.tensor(block.to_vec(), &[block.len() / d, d])?;
    let (rows, from) = ends(splices, learned)?;
    block.index_add(&rows, &learned.index_select(&from, 0)?, 0)
}

pub(super) fn spliced_back(learned: &Tensor, gradient: &Tensor, splices: &[Splice]) -> Result<Tensor> {
    let (rows, from) = ends(splices, learned)?;
    learned.zeros_like()?.index_add(&from, &gradient.index_select(&rows, 0)?, 0)
}

fn ends(splices: &[Splice], like: &Tensor) -> Result<(Tensor, Tensor)> {
    let (rows, learned): (Vec<usize>, Vec<usize>) = splices.iter().map(|s| (s.row, s.learned)).unzip();
    Ok((indices(&rows, like)?, indices(&learned, like)?))
}
