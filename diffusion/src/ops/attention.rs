//! Softmax attention over tokens, heads side by side in the last dimension. The scores of a few queries and keys exist at a
//! time; the backward pass makes them again, from the logarithm of each query's sum.

mod flash;

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

use super::composed::{self, Op1, Op2, Reads};
use super::fresh::zeros;
use super::gemm::Matrix;
use super::tape::Value;
use super::values;
use flash::{Buffers, Head, MOST, QUERIES, turn};

/// Pieces of work that the queries of a call are cut into, about.
const PIECES: usize = 8;
/// Tokens that are copied as one piece of work.
const PLACED: usize = 64;

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
        qkv.apply(OfSelf(Kept::of(self)))
    }

    /// Queries `(b, n, c)` and keys, values side by side `(b, m, 2c)`, to `(b, n, c)`.
    pub(crate) fn to_other(self, q: &Value, kv: &Value) -> Result<Value> {
        q.apply2(kv, OfOther(Kept::of(self)))
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

    /// Keys and values of every head of every sample, each head's without gaps, and what [`turn`] makes of one of them:
    /// `(b, heads, 3, m, dim)`.
    fn gathered(&self, turned: Part<'_>) -> Vec<f32> {
        let (dim, len) = (self.dim(), self.keys * self.dim());
        let mut all = zeros(3 * self.samples * self.op.heads * len);
        all.par_chunks_exact_mut(3 * len).enumerate().for_each(|(job, out)| {
            let (sample, channel) = (job / self.op.heads, job % self.op.heads * dim);
            let (packed, out) = out.split_at_mut(2 * len);
            for (part, out) in [self.k, self.v].into_iter().zip(packed.chunks_exact_mut(len)) {
                let rows = part.view(self.keys, sample, (0, self.keys), channel, dim);
                out.chunks_exact_mut(dim).enumerate().for_each(|(key, out)| out.copy_from_slice(rows.row(key)));
            }
            turn(out, turned.view(self.keys, sample, (0, self.keys), channel, dim));
        });
        all
    }

    /// A head, by its keys and values as [`Self::gathered`] has them.
    fn head<'b>(&self, gathered: &'b [f32]) -> Head<'b> {
        let len = self.keys * self.dim();
        let rows = |part: usize| Matrix::packed(&gathered[part * len..], self.keys, self.dim());
        Head {
            k: rows(0),
            v: rows(1),
            turned: &gathered[2 * len..],
            scale: 1.0 / (self.dim() as f32).sqrt(),
            causal: self.op.causal,
        }
    }

    /// What queries see, `(b, n, width)`, and for each query of each head the logarithm of its sum of e^score, `(b, heads, n)`.
    fn forward(&self) -> (Vec<f32>, Vec<f32>) {
        let (dim, heads, queries) = (self.dim(), self.op.heads, self.queries);
        let gathered = self.gathered(self.v);
        let mut saw = zeros(self.samples * heads * queries * dim); // (b, heads, n, dim), so that heads are work for themselves
        let mut levels = vec![0.0; self.samples * heads * queries];
        let jobs = saw.par_chunks_mut(queries * dim).zip(levels.par_chunks_mut(queries)).enumerate();
        // A query has the same bits in any block, so there may be as many as keep all threads at work.
        let rows = (self.samples * heads * queries / PIECES).next_multiple_of(QUERIES).clamp(QUERIES, MOST);
        let blocks = jobs.flat_map(|(job, (saw, levels))| {
            let blocks = saw.par_chunks_mut(rows * dim).zip(levels.par_chunks_mut(rows)).enumerate();
            blocks.map(move |(block, (saw, levels))| (job, block * rows, saw, levels))
        });
        blocks.for_each_init(Buffers::default, |buffers, (job, first, saw, levels)| {
            let (sample, channel) = (job / heads, job % heads * dim);
            let q = self.q.view(queries, sample, (first, levels.len()), channel, dim);
            self.head(&gathered[job * 3 * self.keys * dim..]).attend(buffers, (q, first), saw, levels);
        });
        let mut out = zeros(self.samples * queries * self.width);
        self.place(&mut out, &saw, (0, queries), 0);
        (out, levels)
    }

    /// Gradients with respect to q, k and v of every head of every sample, one after the other: `(b, heads, n + m + m, dim)`.
    fn backward(&self, levels: &[f32], saw: &[f32], gradient: &[f32]) -> Vec<f32> {
        let (dim, keys, queries, heads) = (self.dim(), self.keys, self.queries, self.op.heads);
        let rows = |data| Part { data, stride: self.width, offset: 0 };
        let (saw, gradient, gathered) = (rows(saw), rows(gradient), self.gathered(self.k));
        let mut out = zeros(self.samples * heads * (queries + 2 * keys) * dim);
        let jobs = out.par_chunks_mut((queries + 2 * keys) * dim).zip(gathered.par_chunks_exact(3 * keys * dim));
        jobs.enumerate().for_each_init(Buffers::default, |buffers, (job, (out, own))| {
            let (sample, head, own) = (job / heads, job % heads, self.head(own));
            let (dq, dkv) = out.split_at_mut(queries * dim);
            let (dk, dv) = dkv.split_at_mut(keys * dim);
            for (block, dq) in dq.chunks_mut(MOST * dim).enumerate() {
                let first = block * MOST;
                let rows = (first, dq.len() / dim);
                let [q, g, saw] = [self.q, gradient, saw].map(|part| part.view(queries, sample, rows, head * dim, dim));
                let levels = &levels[job * queries + first..];
                own.back(buffers, (q, first), (g, saw), levels, (dq, &mut *dk, &mut *dv));
            }
        });
        out
    }

    /// Copies values of every head of every sample, `(b, heads, …, dim)`: `tokens` rows of each from `from` on, to channels from
    /// `offset` on.
    fn place(&self, out: &mut [f32], values: &[f32], (from, tokens): (usize, usize), offset: usize) {
        let (dim, stride) = (self.dim(), out.len() / (self.samples * tokens));
        let per_head = values.len() / (self.samples * self.op.heads);
        let samples = out.par_chunks_mut(tokens * stride).zip(values.par_chunks(self.op.heads * per_head));
        samples.for_each(|(out, values)| {
            out.par_chunks_mut(PLACED * stride).enumerate().for_each(|(piece, out)| {
                for (head, values) in values.chunks_exact(per_head).enumerate() {
                    let rows = values[(from + piece * PLACED) * dim..].chunks_exact(dim);
                    for (out, row) in out.chunks_exact_mut(stride).zip(rows) {
                        out[offset + head * dim..][..dim].copy_from_slice(row);
                    }
                }
            });
        });
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

/// Attention, and what its backward pass wants to know of the forward pass: see [`Call::forward`].
struct Kept {
    op: Attention,
    levels: OnceLock<Vec<f32>>,
}

impl Kept {
    fn of(op: Attention) -> Self {
        Self { op, levels: OnceLock::new() }
    }

    fn forward(&self, call: Call<'_>) -> CpuStorage {
        let (out, levels) = call.forward();
        self.levels.get_or_init(|| levels);
        CpuStorage::F32(out)
    }

    fn backward(&self, call: Call<'_>, saw: &Tensor, gradient: &[f32]) -> Result<Vec<f32>> {
        let Some(levels) = self.levels.get() else {
            bail!("attention was asked for the gradient of what it never did")
        };
        let (saw, layout) = saw.storage_and_layout();
        match &*saw {
            Storage::Cpu(saw) => Ok(call.backward(levels, values(saw, layout)?, gradient)),
            _ => bail!("attention on the CPU has a result elsewhere"),
        }
    }
}

struct OfSelf(Kept);

impl CustomOp1 for OfSelf {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let call = self_call(self.0.op, x, layout)?;
        Ok((self.0.forward(call), Shape::from((call.samples, call.queries, call.width))))
    }

    fn bwd(&self, qkv: &Tensor, saw: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        qkv.apply_op2_no_bwd(gradient, &OfSelfGradient { of: &self.0, saw }).map(Some)
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
    fn reads(&self) -> Reads {
        Reads::Result
    }

    fn composed(&self, qkv: &Tensor) -> Result<Tensor> {
        let parts = cut(qkv, 3, self.0.op.heads)?;
        composed::attention(self.0.op, &parts[0], &parts[1], &parts[2])
    }

    fn composed_back(&self, qkv: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let parts = cut(qkv, 3, self.0.op.heads)?;
        let own = composed::attention_back(self.0.op, (&parts[0], &parts[1], &parts[2]), gradient)?;
        Tensor::cat(&own, 2)
    }
}

struct OfSelfGradient<'a> {
    of: &'a Kept,
    saw: &'a Tensor,
}

impl CustomOp2 for OfSelfGradient<'_> {
    fn name(&self) -> &'static str {
        "self-attention-gradient"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let call = self_call(self.of.op, x, lx)?;
        let grads = self.of.backward(call, self.saw, values(g, lg)?)?;
        let mut out = zeros(lx.shape().elem_count());
        for part in 0..3 {
            call.place(&mut out, &grads, (part * call.queries, call.queries), part * call.width);
        }
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}

struct OfOther(Kept);

impl CustomOp2 for OfOther {
    fn name(&self) -> &'static str {
        "cross-attention"
    }

    fn cpu_fwd(&self, q: &CpuStorage, lq: &Layout, kv: &CpuStorage, lkv: &Layout) -> Result<(CpuStorage, Shape)> {
        let call = other_call(self.0.op, q, lq, kv, lkv)?;
        Ok((self.0.forward(call), lq.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        kv: &Tensor,
        saw: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (b, n, c) = q.dims3()?;
        let m = kv.dim(1)?;
        let both = q.apply_op3_no_bwd(kv, gradient, &OfOtherGradient { of: &self.0, saw })?;
        let dq = both.narrow(0, 0, b * n * c)?.reshape((b, n, c))?;
        let dkv = both.narrow(0, b * n * c, b * m * 2 * c)?.reshape((b, m, 2 * c))?;
        Ok((Some(dq), Some(dkv)))
    }
}

impl Op2 for OfOther {
    fn reads(&self) -> Reads {
        Reads::Result
    }

    fn composed(&self, q: &Tensor, kv: &Tensor) -> Result<Tensor> {
        let parts = cut(kv, 2, self.0.op.heads)?;
        composed::attention(self.0.op, q, &parts[0], &parts[1])
    }

    fn composed_back(&self, q: &Tensor, kv: &Tensor, gradient: &Tensor) -> Result<[Tensor; 2]> {
        let parts = cut(kv, 2, self.0.op.heads)?;
        let [dq, dk, dv] = composed::attention_back(self.0.op, (q, &parts[0], &parts[1]), gradient)?;
        Ok([dq, Tensor::cat(&[dk, dv], 2)?])
    }
}

/// Both gradients behind one another, flat: an op has one result.
struct OfOtherGradient<'a> {
    of: &'a Kept,
    saw: &'a Tensor,
}

impl CustomOp3 for OfOtherGradient<'_> {
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
        let call = other_call(self.of.op, q, lq, kv, lkv)?;
        let grads = self.of.backward(call, self.saw, values(g, lg)?)?;
        let mut out = zeros(lq.shape().elem_count() + lkv.shape().elem_count());
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
            [(2, 5, 3, 4, false), (1, 7, 2, 5, true), (2, 500, 1, 9, false), (1, 1, 1, 1, true), (2, 350, 2, 24, true)]
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
        for (b, n, m, heads, dim) in [(2, 5, 3, 3, 4), (1, 270, 77, 2, 24), (3, 1, 9, 1, 7), (1, 3, 245, 1, 17)] {
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
