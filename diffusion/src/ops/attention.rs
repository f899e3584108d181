//! Softmax attention over tokens, heads side by side in the last dimension. The scores of a few query rows exist at a
//! time; the backward pass makes them again.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::composed::{self, Op1, Op2};
use super::gemm::{Matrix, Write, product};
use super::kernel::ROWS;
use super::panels::Panels;
use super::scratch::Scratch;
use super::simd::{exp, map_sum, max, sum2, vectorised};
use super::tape::Value;
use super::values;

/// Query rows of one piece of work at most, and pieces that queries are cut into at least: the more rows, the less often keys and
/// values are read.
const PIECE_ROWS: usize = 96;
const PIECES: usize = 8;

/// How attention reads its projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attention {
    /// Heads; each has `width / heads` channels.
    pub(crate) heads: usize,
    /// True if a token sees no later token.
    pub(crate) causal: bool,
}

impl Attention {
    /// `(b, n, 3c)` = queries, keys, values side by side, to `(b, n, c)`.
    pub(crate) fn to_self(self, qkv: &Value) -> Result<Value> {
        qkv.apply(OfSelf(self))
    }

    /// Queries `(b, n, c)` and keys, values side by side `(b, m, 2c)`, to `(b, n, c)`.
    pub(crate) fn to_other(self, q: &Value, kv: &Value) -> Result<Value> {
        q.apply2(kv, OfOther(self))
    }
}

/// One of the three projections inside a tensor: `width` channels of every row of `stride`, from `offset` on.
#[derive(Clone, Copy)]
struct Part<'a> {
    data: &'a [f32],
    stride: usize,
    offset: usize,
}

impl<'a> Part<'a> {
    /// `rows` rows of one sample from row `first` on, `dim` channels from `channel` on. A sample has `tokens` rows.
    fn view(
        &self,
        tokens: usize,
        sample: usize,
        (first, rows): (usize, usize),
        channel: usize,
        dim: usize,
    ) -> Matrix<'a> {
        let start = (sample * tokens + first) * self.stride + self.offset + channel;
        Matrix::strided(&self.data[start..], rows, dim, self.stride)
    }
}

/// Sizes and inputs of one call.
#[derive(Clone, Copy)]
struct Call<'a> {
    op: Attention,
    q: Part<'a>,
    k: Part<'a>,
    v: Part<'a>,
    samples: usize,
    queries: usize,
    keys: usize,
    width: usize,
}

impl Call<'_> {
    fn dim(&self) -> usize {
        self.width / self.op.heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dim() as f32).sqrt()
    }

    /// Query rows of one piece of work.
    fn rows(&self) -> usize {
        self.queries.div_ceil(PIECES).next_multiple_of(ROWS).min(PIECE_ROWS)
    }

    /// Writes e^(score - largest) of query rows `rows` to `weights`, and the reciprocal row sums to `norms`. `k` is the transpose
    /// of the head's keys.
    fn weights(
        &self,
        weights: &mut Scratch,
        norms: &mut Vec<f32>,
        k: &Panels,
        (sample, head): (usize, usize),
        rows: (usize, usize),
    ) {
        let (first, count) = rows;
        let weights = weights.values(count * self.keys);
        norms.resize(count, 0.0);
        let q = self.q.view(self.queries, sample, rows, head * self.dim(), self.dim());
        product(weights, self.keys, Write::Replace, self.scale(), q, k);
        exponentials(weights, norms, self.keys, if self.op.causal { first + 1 } else { self.keys });
    }

    /// All keys or values of a head.
    fn head<'b>(&self, part: Part<'b>, (sample, head): (usize, usize)) -> Matrix<'b> {
        part.view(self.keys, sample, (0, self.keys), head * self.dim(), self.dim())
    }

    fn forward(&self) -> Vec<f32> {
        let (width, rows, dim, heads) = (self.width, self.rows(), self.dim(), self.op.heads);
        let packed = (0..self.samples * heads).into_par_iter().map(|job| {
            let (mut k, mut v) = (Panels::default(), Panels::default());
            k.fill(self.head(self.k, (job / heads, job % heads)).transposed());
            v.fill(self.head(self.v, (job / heads, job % heads)));
            (k, v)
        });
        let packed: Vec<(Panels, Panels)> = packed.collect();
        let mut out = vec![0.0; self.samples * self.queries * width];
        let pieces = out.par_chunks_mut(self.queries * width).enumerate().flat_map(|(sample, out)| {
            let cut = move |(piece, out)| (sample, piece * rows, out);
            out.par_chunks_mut(rows * width).enumerate().map(cut)
        });
        let scratch = || (Scratch::take(), Vec::new());
        pieces.for_each_init(scratch, |(weights, norms), (sample, first, out): (usize, usize, &mut [f32])| {
            let count = out.len() / width;
            for (head, (k, v)) in packed[sample * heads..][..heads].iter().enumerate() {
                self.weights(weights, norms, k, (sample, head), (first, count));
                let seen = Matrix::packed(weights, count, self.keys);
                product(&mut out[head * dim..], width, Write::Replace, 1.0, seen, v);
                for (row, norm) in out.chunks_exact_mut(width).zip(&*norms) {
                    row[head * dim..][..dim].iter_mut().for_each(|x| *x *= norm);
                }
            }
        });
        out
    }

    /// Gradients with respect to q, k and v of every head of every sample, one after the other:
    /// `(b, heads, n + m + m, dim)`.
    fn backward(&self, gradient: &[f32]) -> Vec<f32> {
        let (dim, keys, queries) = (self.dim(), self.keys, self.queries);
        let gradient = Part { data: gradient, stride: self.width, offset: 0 };
        let mut out = vec![0.0; self.samples * self.op.heads * (queries + 2 * keys) * dim];
        let jobs = out.par_chunks_mut((queries + 2 * keys) * dim).enumerate();
        jobs.for_each_init(Buffers::default, |scratch, (job, out)| {
            let (sample, head) = (job / self.op.heads, job % self.op.heads);
            let (k, v) = (self.head(self.k, (sample, head)), self.head(self.v, (sample, head)));
            scratch.k.fill(k);
            scratch.k_transposed.fill(k.transposed());
            scratch.v_transposed.fill(v.transposed());
            let (dq, dkv) = out.split_at_mut(queries * dim);
            let (dk, dv) = dkv.split_at_mut(keys * dim);
            for (piece, dq) in dq.chunks_mut(self.rows() * dim).enumerate() {
                let rows = (piece * self.rows(), dq.len() / dim);
                let g = gradient.view(queries, sample, rows, head * dim, dim);
                self.backward_piece(scratch, g, (sample, head), rows, (dq, dk, dv));
            }
        });
        out
    }

    /// With P the attention weights and dP = g · vᵀ: dS = P ∘ (dP - rowsum(P ∘ dP)); dq = dS·k, dk = dSᵀ·q, dv = Pᵀ·g.
    fn backward_piece(
        &self,
        scratch: &mut Buffers,
        g: Matrix<'_>,
        (sample, head): (usize, usize),
        rows: (usize, usize),
        (dq, dk, dv): (&mut [f32], &mut [f32], &mut [f32]),
    ) {
        let (dim, keys, channel) = (self.dim(), self.keys, head * self.dim());
        let Buffers { k, k_transposed, v_transposed, weights, norms, slopes } = scratch;
        let q = self.q.view(self.queries, sample, rows, channel, dim);
        self.weights(weights, norms, k_transposed, (sample, head), rows);
        let weights = weights.values(rows.1 * keys);
        let slopes = slopes.values(rows.1 * keys);
        product(slopes, keys, Write::Replace, 1.0, g, &*v_transposed);
        through_softmax(weights, slopes, norms);
        let weights = Matrix::packed(weights, rows.1, keys);
        let slopes = Matrix::packed(slopes, rows.1, keys);
        product(dq, dim, Write::Replace, self.scale(), slopes, &*k);
        product(dk, dim, Write::Add, self.scale(), slopes.transposed(), q);
        product(dv, dim, Write::Add, 1.0, weights.transposed(), g);
    }

    /// Copies one gradient out of [`Self::backward`]'s layout: `tokens` rows from `from` on, to channels from `offset` on.
    fn place(&self, out: &mut [f32], grads: &[f32], (from, tokens): (usize, usize), offset: usize) {
        let (dim, stride) = (self.dim(), out.len() / (self.samples * tokens));
        let per_head = (self.queries + 2 * self.keys) * dim;
        let samples = out.par_chunks_mut(tokens * stride).zip(grads.par_chunks(self.op.heads * per_head));
        samples.for_each(|(out, grads)| {
            for (head, grads) in grads.chunks_exact(per_head).enumerate() {
                let rows = grads[from * dim..].chunks_exact(dim);
                for (out, row) in out.chunks_exact_mut(stride).zip(rows) {
                    out[offset + head * dim..][..dim].copy_from_slice(row);
                }
            }
        });
    }
}

/// Buffers of one thread.
#[derive(Default)]
struct Buffers {
    k: Panels,
    k_transposed: Panels,
    v_transposed: Panels,
    weights: Scratch,
    norms: Vec<f32>,
    slopes: Scratch,
}

vectorised! {
    /// Replaces rows of `keys` scores by e^(score - largest), and writes the reciprocals of their sums to `norms`. The first row sees
    /// `seen` keys, each further one a key more, as far as there are any; the weights of others are zero.
    fn exponentials(scores: &mut [f32], norms: &mut [f32], keys: usize, seen: usize) {
        for (at, (row, norm)) in scores.chunks_exact_mut(keys).zip(norms).enumerate() {
            let (row, hidden) = row.split_at_mut((seen + at).min(keys));
            hidden.fill(0.0);
            let largest = max(row);
            *norm = 1.0 / map_sum(row, |x| exp(x - largest));
        }
    }

    /// Normalises the weights `p`, a row for each of `norms`, and turns their gradient `d` into that of the scores.
    fn through_softmax(p: &mut [f32], d: &mut [f32], norms: &[f32]) {
        let keys = p.len() / norms.len();
        for ((p, d), norm) in p.chunks_exact_mut(keys).zip(d.chunks_exact_mut(keys)).zip(norms) {
            for p in &mut *p {
                *p *= norm;
            }
            let mean = sum2(p, d, |p, d| p * d);
            for (d, p) in d.iter_mut().zip(&*p) {
                *d = p * (*d - mean);
            }
        }
    }
}

/// The parts of `(b, n, 3c)`.
fn self_call<'a>(op: Attention, x: &'a CpuStorage, layout: &Layout) -> Result<Call<'a>> {
    let (samples, tokens, stride) = layout.shape().dims3()?;
    if !stride.is_multiple_of(3 * op.heads) {
        bail!("self-attention of {} heads was given {:?}", op.heads, layout.shape());
    }
    let (data, width) = (values(x, layout)?, stride / 3);
    let part = |i| Part { data, stride, offset: i * width };
    Ok(Call { op, q: part(0), k: part(1), v: part(2), samples, queries: tokens, keys: tokens, width })
}

/// The parts of `(b, n, c)` and `(b, m, 2c)`.
fn other_call<'a>(op: Attention, q: &'a CpuStorage, lq: &Layout, kv: &'a CpuStorage, lkv: &Layout) -> Result<Call<'a>> {
    let ((samples, queries, width), (others, keys, stride)) = (lq.shape().dims3()?, lkv.shape().dims3()?);
    if samples != others || stride != 2 * width || !width.is_multiple_of(op.heads) {
        bail!("attention of {} heads was given {:?} and {:?}", op.heads, lq.shape(), lkv.shape());
    }
    let kv = values(kv, lkv)?;
    let (k, v) = (Part { data: kv, stride, offset: 0 }, Part { data: kv, stride, offset: width });
    Ok(Call { op, q: Part { data: values(q, lq)?, stride: width, offset: 0 }, k, v, samples, queries, keys, width })
}

struct OfSelf(Attention);

impl CustomOp1 for OfSelf {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let call = self_call(self.0, x, layout)?;
        Ok((CpuStorage::F32(call.forward()), Shape::from((call.samples, call.queries, call.width))))
    }

    fn bwd(&self, qkv: &Tensor, _res: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        qkv.apply_op2_no_bwd(gradient, &OfSelfGradient(self.0)).map(Some)
    }
}

/// `count` parts of the last dimension, side by side.
fn cut(x: &Tensor, count: usize, heads: usize) -> Result<Vec<Tensor>> {
    let (last, stride) = (x.rank() - 1, x.dims().last().copied().unwrap_or_default());
    if !stride.is_multiple_of(count * heads) {
        bail!("attention of {heads} heads was given {:?}", x.shape());
    }
    (0..count).map(|part| x.narrow(last, part * stride / count, stride / count)).collect()
}

impl Op1 for OfSelf {
    fn composed(&self, qkv: &Tensor) -> Result<Tensor> {
        let parts = cut(qkv, 3, self.0.heads)?;
        composed::attention(self.0, &parts[0], &parts[1], &parts[2])
    }

    fn composed_back(&self, qkv: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let parts = cut(qkv, 3, self.0.heads)?;
        let own = composed::attention_back(self.0, (&parts[0], &parts[1], &parts[2]), gradient)?;
        Tensor::cat(&own, 2)
    }
}

struct OfSelfGradient(Attention);

impl CustomOp2 for OfSelfGradient {
    fn name(&self) -> &'static str {
        "self-attention-gradient"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let call = self_call(self.0, x, lx)?;
        let grads = call.backward(values(g, lg)?);
        let mut out = vec![0.0; lx.shape().elem_count()];
        for part in 0..3 {
            call.place(&mut out, &grads, (part * call.queries, call.queries), part * call.width);
        }
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}

struct OfOther(Attention);

impl CustomOp2 for OfOther {
    fn name(&self) -> &'static str {
        "cross-attention"
    }

    fn cpu_fwd(&self, q: &CpuStorage, lq: &Layout, kv: &CpuStorage, lkv: &Layout) -> Result<(CpuStorage, Shape)> {
        let call = other_call(self.0, q, lq, kv, lkv)?;
        Ok((CpuStorage::F32(call.forward()), lq.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        kv: &Tensor,
        _res: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (b, n, c) = q.dims3()?;
        let m = kv.dim(1)?;
        let both = q.apply_op3_no_bwd(kv, gradient, &OfOtherGradient(self.0))?;
        let dq = both.narrow(0, 0, b * n * c)?.reshape((b, n, c))?;
        let dkv = both.narrow(0, b * n * c, b * m * 2 * c)?.reshape((b, m, 2 * c))?;
        Ok((Some(dq), Some(dkv)))
    }
}

impl Op2 for OfOther {
    fn composed(&self, q: &Tensor, kv: &Tensor) -> Result<Tensor> {
        let parts = cut(kv, 2, self.0.heads)?;
        composed::attention(self.0, q, &parts[0], &parts[1])
    }

    fn composed_back(&self, q: &Tensor, kv: &Tensor, gradient: &Tensor) -> Result<[Tensor; 2]> {
        let parts = cut(kv, 2, self.0.heads)?;
        let [dq, dk, dv] = composed::attention_back(self.0, (q, &parts[0], &parts[1]), gradient)?;
        Ok([dq, Tensor::cat(&[dk, dv], 2)?])
    }
}

/// Both gradients behind one another, flat: an op has one result.
struct OfOtherGradient(Attention);

impl candle_core::CustomOp3 for OfOtherGradient {
    fn name(&self) -> &'static str {
        "cross-attention-gradient"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        kv: &CpuStorage,
        lkv: &Layout,
        g: &CpuStorage,
        lg: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let call = other_call(self.0, q, lq, kv, lkv)?;
        let grads = call.backward(values(g, lg)?);
        let mut out = vec![0.0; lq.shape().elem_count() + lkv.shape().elem_count()];
        let (dq, dkv) = out.split_at_mut(lq.shape().elem_count());
        call.place(dq, &grads, (0, call.queries), 0);
        call.place(dkv, &grads, (call.queries, call.keys), 0);
        call.place(dkv, &grads, (call.queries + call.keys, call.keys), call.width);
        let len = out.len();
        Ok((CpuStorage::F32(out), Shape::from(len)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{constant, frozen_agree, noise};
    use super::super::tests::plain::attention as reference;
    use super::*;

    #[test]
    fn self_attention_agrees_with_its_formula() {
        for (b, n, heads, dim, causal) in
            [(2, 5, 3, 4, false), (1, 7, 2, 5, true), (2, 300, 1, 9, false), (1, 1, 1, 1, true)]
        {
            let (op, c) = (Attention { heads, causal }, heads * dim);
            frozen_agree(
                &[noise(1, &[b, n, 3 * c])],
                |a| op.to_self(&a[0]),
                |a| reference(op, &a[0].narrow(2, 0, c)?, &a[0].narrow(2, c, c)?, &a[0].narrow(2, 2 * c, c)?),
            );
        }
    }

    #[test]
    fn cross_attention_agrees_with_its_formula() {
        for (b, n, m, heads, dim) in [(2, 5, 3, 3, 4), (1, 270, 77, 2, 24), (3, 1, 9, 1, 7)] {
            let (op, c) = (Attention { heads, causal: false }, heads * dim);
            frozen_agree(
                &[noise(1, &[b, n, c]), noise(2, &[b, m, 2 * c])],
                |a| op.to_other(&a[0], &a[1]),
                |a| reference(op, &a[0], &a[1].narrow(2, 0, c)?, &a[1].narrow(2, c, c)?),
            );
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let op = Attention { heads: 1, causal: false };
        let qkv = (noise(1, &[1, 6, 9]) * 50.0).unwrap();
        assert!(
            super::super::to_vec(op.to_self(&constant(&qkv)).unwrap().tensor()).unwrap().iter().all(|x| x.is_finite())
        );
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let op = Attention { heads: 2, causal: false };
        assert!(op.to_self(&constant(&noise(1, &[1, 4, 9]))).is_err());
        assert!(op.to_other(&constant(&noise(1, &[1, 4, 6])), &constant(&noise(1, &[2, 4, 12]))).is_err());
    }
}
