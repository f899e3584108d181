//! What stands between the layers: upsampling, joining skip connections, layouts, sums, learned rows among token rows.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::composed::{self, Op1, Op2, Reads};
use super::fresh::{copied, zeros};
use super::simd::vectorised;
use super::tape::Value;
use super::values;

/// Values of one piece of work.
const PIECE: usize = 1 << 15;

/// `(b, h, w, c)` to `(b, height, width, c)` by repeating the nearest pixel above and to the left.
pub(crate) fn upsample_nearest(x: &Value, height: usize, width: usize) -> Result<Value> {
    x.apply(Upsample { height, width })
}

#[derive(Clone, Copy)]
struct Upsample {
    height: usize,
    width: usize,
}

impl Upsample {
    /// For each row and each column of the result: that which it repeats.
    fn lines(self, h: usize, w: usize) -> (Vec<usize>, Vec<usize>) {
        let rows = (0..self.height).map(|y| y * h / self.height);
        (rows.collect(), (0..self.width).map(|x| x * w / self.width).collect())
    }

    /// For each pixel of the result, row by row: the pixel that it repeats.
    fn sources(self, h: usize, w: usize) -> Vec<usize> {
        let (rows, columns) = self.lines(h, w);
        rows.iter().flat_map(|y| columns.iter().map(move |x| y * w + x)).collect()
    }
}

impl CustomOp1 for Upsample {
    fn name(&self) -> &'static str {
        "upsample-nearest"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, h, w, c) = layout.shape().dims4()?;
        let (x, sources) = (values(storage, layout)?, self.sources(h, w));
        let mut out = zeros(b * sources.len() * c);
        out.par_chunks_mut(sources.len() * c).zip(x.par_chunks(h * w * c)).for_each(|(out, x)| {
            for (pixel, source) in out.chunks_exact_mut(c).zip(&sources) {
                pixel.copy_from_slice(&x[source * c..][..c]);
            }
        });
        Ok((CpuStorage::F32(out), Shape::from((b, self.height, self.width, c))))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, height, width, _) = x.dims4()?;
        gradient.apply_op1_no_bwd(&UpsampleGradient { up: *self, height, width }).map(Some)
    }
}

impl Op1 for Upsample {
    fn reads(&self) -> Reads {
        Reads::Nothing
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let (_, h, w, _) = x.dims4()?;
        let (rows, columns) = self.lines(h, w);
        composed::repeated(x, (&rows, &columns))
    }

    fn composed_back(&self, x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let (_, h, w, _) = x.dims4()?;
        let (rows, columns) = self.lines(h, w);
        composed::repeated_back(gradient, (&rows, &columns), (h, w))
    }
}

struct UpsampleGradient {
    up: Upsample,
    height: usize,
    width: usize,
}

impl CustomOp1 for UpsampleGradient {
    fn name(&self) -> &'static str {
        "upsample-nearest-gradient"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, _, _, c) = layout.shape().dims4()?;
        let (g, sources) = (values(storage, layout)?, self.up.sources(self.height, self.width));
        let mut out = zeros(b * self.height * self.width * c);
        out.par_chunks_mut(self.height * self.width * c).zip(g.par_chunks(sources.len() * c)).for_each(|(out, g)| {
            for (pixel, source) in g.chunks_exact(c).zip(&sources) {
                out[source * c..][..c].iter_mut().zip(pixel).for_each(|(o, g)| *o += g);
            }
        });
        Ok((CpuStorage::F32(out), Shape::from((b, self.height, self.width, c))))
    }
}

/// `(…, m)` and `(…, n)` to `(…, m + n)`.
pub(crate) fn join(left: &Value, right: &Value) -> Result<Value> {
    left.apply2(right, Join)
}

struct Join;

impl CustomOp2 for Join {
    fn name(&self) -> &'static str {
        "join"
    }

    fn cpu_fwd(&self, left: &CpuStorage, ll: &Layout, right: &CpuStorage, lr: &Layout) -> Result<(CpuStorage, Shape)> {
        let (m, n) = match (ll.dims(), lr.dims()) {
            ([a @ .., m], [b @ .., n]) if a == b => (*m, *n),
            (a, b) => bail!("{a:?} and {b:?} differ in more than the last dimension"),
        };
        let (left, right) = (values(left, ll)?, values(right, lr)?);
        let mut out = Vec::with_capacity(left.len() + right.len());
        for (l, r) in left.chunks_exact(m).zip(right.chunks_exact(n)) {
            out.extend_from_slice(l);
            out.extend_from_slice(r);
        }
        let mut dims = ll.dims().to_vec();
        dims.pop();
        dims.push(m + n);
        Ok((CpuStorage::F32(out), Shape::from(dims)))
    }

    fn bwd(
        &self,
        left: &Tensor,
        right: &Tensor,
        _res: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let last = g.rank() - 1;
        let (m, n) = (left.dim(last)?, right.dim(last)?);
        Ok((Some(g.narrow(last, 0, m)?.contiguous()?), Some(g.narrow(last, m, n)?.contiguous()?)))
    }
}

impl Op2 for Join {
    fn reads(&self) -> Reads {
        Reads::Nothing
    }

    fn composed(&self, left: &Tensor, right: &Tensor) -> Result<Tensor> {
        Tensor::cat(&[left, right], left.rank() - 1)
    }

    fn composed_back(&self, left: &Tensor, right: &Tensor, g: &Tensor) -> Result<[Tensor; 2]> {
        let last = g.rank() - 1;
        let (m, n) = (left.dim(last)?, right.dim(last)?);
        Ok([g.narrow(last, 0, m)?, g.narrow(last, m, n)?])
    }
}

/// The same values with the last dimension moved to the second place, `(b, h, w, c)` to `(b, c, h, w)`, or the other way.
#[derive(Clone, Copy)]
pub(crate) enum Move {
    /// To `(b, c, h, w)`.
    ChannelsFirst,
    /// To `(b, h, w, c)`.
    ChannelsLast,
}

impl Move {
    /// Applies it.
    pub(crate) fn forward(self, x: &Value) -> Result<Value> {
        x.apply(self)
    }

    fn opposite(self) -> Self {
        match self {
            Self::ChannelsFirst => Self::ChannelsLast,
            Self::ChannelsLast => Self::ChannelsFirst,
        }
    }
}

impl CustomOp1 for Move {
    fn name(&self) -> &'static str {
        "move-channels"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, i, j, k) = layout.shape().dims4()?;
        // Each sample is a matrix of pixels and channels, transposed.
        let (rows, columns, shape) = match self {
            Self::ChannelsFirst => (i * j, k, (b, k, i, j)),
            Self::ChannelsLast => (i, j * k, (b, j, k, i)),
        };
        let x = values(storage, layout)?;
        let mut out = Vec::with_capacity(x.len());
        for sample in x.chunks_exact(rows * columns) {
            (0..columns).for_each(|column| out.extend((0..rows).map(|row| sample[row * columns + column])));
        }
        Ok((CpuStorage::F32(out), Shape::from(shape)))
    }

    fn bwd(&self, _arg: &Tensor, _res: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient.apply_op1_no_bwd(&self.opposite()).map(Some)
    }
}

impl Op1 for Move {
    fn reads(&self) -> Reads {
        Reads::Nothing
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::ChannelsFirst => composed::channels_first(x),
            Self::ChannelsLast => composed::channels_last(x),
        }
    }

    fn composed_back(&self, _: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        self.opposite().composed(gradient)
    }
}

/// `a + b` of one shape.
pub(crate) struct Sum;

impl Op2 for Sum {
    fn reads(&self) -> Reads {
        Reads::Nothing
    }

    fn composed(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        a + b
    }

    fn composed_back(&self, _: &Tensor, _: &Tensor, g: &Tensor) -> Result<[Tensor; 2]> {
        Ok([g.clone(), g.clone()])
    }
}

vectorised! {
    fn add(out: &mut [f32], other: &[f32]) {
        for (out, other) in out.iter_mut().zip(other) {
            *out += other;
        }
    }
}

impl CustomOp2 for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        if la.shape() != lb.shape() {
            bail!("{:?} and {:?} cannot be added", la.shape(), lb.shape());
        }
        let mut out = copied(values(a, la)?);
        out.par_chunks_mut(PIECE).zip(values(b, lb)?.par_chunks(PIECE)).for_each(|(out, b)| add(out, b));
        Ok((CpuStorage::F32(out), la.shape().clone()))
    }

    fn bwd(&self, _a: &Tensor, _b: &Tensor, _res: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(g.clone()), Some(g.clone())))
    }
}

/// A row of a frozen block that a learned row is added to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Splice {
    /// Row of the block.
    pub(crate) row: usize,
    /// Row of the learned tensor.
    pub(crate) learned: usize,
}

/// `block` `(rows, d)` with `learned` `(n, d)` added to the rows named by `splices`; the gradient goes to `learned` alone.
pub(crate) fn splice(learned: &Value, block: Vec<f32>, splices: Vec<Splice>) -> Result<Value> {
    learned.apply(SpliceOp { block: Arc::new(block), splices: Arc::new(splices) })
}

#[derive(Clone)]
struct SpliceOp {
    block: Arc<Vec<f32>>,
    splices: Arc<Vec<Splice>>,
}

impl CustomOp1 for SpliceOp {
    fn name(&self) -> &'static str {
        "splice"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, d) = layout.shape().dims2()?;
        let learned = values(storage, layout)?;
        let mut out = self.block.to_vec();
        for Splice { row, learned: from } in self.splices.iter() {
            if *from >= n {
                bail!("a prompt names learned row {from}, of {n}");
            }
            out[row * d..][..d].iter_mut().zip(&learned[from * d..][..d]).for_each(|(o, l)| *o += l);
        }
        let rows = out.len() / d;
        Ok((CpuStorage::F32(out), Shape::from((rows, d))))
    }

    fn bwd(&self, learned: &Tensor, _res: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient.apply_op1_no_bwd(&SpliceGradient { op: self.clone(), rows: learned.dim(0)? }).map(Some)
    }
}

impl Op1 for SpliceOp {
    fn reads(&self) -> Reads {
        Reads::Nothing
    }

    fn composed(&self, learned: &Tensor) -> Result<Tensor> {
        composed::spliced(learned, &self.block, &self.splices)
    }

    fn composed_back(&self, learned: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        composed::spliced_back(learned, gradient, &self.splices)
    }
}

struct SpliceGradient {
    op: SpliceOp,
    rows: usize,
}

impl CustomOp1 for SpliceGradient {
    fn name(&self) -> &'static str {
        "splice-gradient"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, d) = layout.shape().dims2()?;
        let gradient = values(storage, layout)?;
        let mut out = vec![0.0; self.rows * d];
        for Splice { row, learned } in self.op.splices.iter() {
            out[learned * d..][..d].iter_mut().zip(&gradient[row * d..][..d]).for_each(|(o, g)| *o += g);
        }
        Ok((CpuStorage::F32(out), Shape::from((self.rows, d))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{constant, frozen_agree, noise};
    use super::super::to_vec;
    use super::*;

    #[test]
    fn doubling_agrees_with_a_reshape() {
        let (b, h, w, c) = (2, 3, 5, 7);
        frozen_agree(
            &[noise(1, &[b, h, w, c])],
            |a| upsample_nearest(&a[0], 2 * h, 2 * w),
            |a| {
                let ones = Tensor::ones((1, 1, 2, 1, 2, 1), a[0].dtype(), a[0].device())?;
                a[0].reshape((b, h, 1, w, 1, c))?.broadcast_mul(&ones)?.reshape((b, 2 * h, 2 * w, c))
            },
        );
    }

    #[test]
    fn odd_sizes_repeat_the_pixel_that_pytorch_repeats() {
        let x = Tensor::arange(0f32, 3.0, &candle_core::Device::Cpu).unwrap().reshape((1, 1, 3, 1)).unwrap();
        let up = upsample_nearest(&constant(&x), 1, 5).unwrap();
        assert_eq!(to_vec(up.tensor()).unwrap(), [0., 0., 1., 1., 2.]);
    }

    #[test]
    fn moving_channels_agrees_with_permute() {
        let x = noise(1, &[2, 3, 4, 5]);
        let permuted = |a: &[Tensor], order| a[0].permute(order)?.contiguous();
        frozen_agree(std::slice::from_ref(&x), |a| Move::ChannelsFirst.forward(&a[0]), |a| permuted(a, (0, 3, 1, 2)));
        frozen_agree(&[x], |a| Move::ChannelsLast.forward(&a[0]), |a| permuted(a, (0, 2, 3, 1)));
    }

    #[test]
    fn joining_agrees_with_cat() {
        let args = [noise(1, &[2, 3, 4, 5]), noise(2, &[2, 3, 4, 2])];
        frozen_agree(&args, |a| join(&a[0], &a[1]), |a| Tensor::cat(a, 3));
        assert!(join(&constant(&args[0]), &constant(&noise(1, &[2, 3, 3, 5]))).is_err());
    }

    #[test]
    fn a_splice_adds_learned_rows_and_returns_their_gradient() {
        let block = noise(1, &[6, 5]);
        let splices = [(4, 0), (1, 2), (2, 0)].map(|(row, learned)| Splice { row, learned }).to_vec();
        let one_hot = |places: &[(usize, usize)]| {
            let mut m = vec![0f32; 18];
            places.iter().for_each(|(r, l)| m[r * 3 + l] = 1.0);
            Tensor::from_vec(m, (6, 3), block.device()).unwrap()
        };
        let pick = one_hot(&[(4, 0), (1, 2), (2, 0)]);
        frozen_agree(
            &[noise(2, &[3, 5])],
            |a| splice(&a[0], to_vec(&block)?, splices.clone()),
            |a| &block + pick.matmul(&a[0])?,
        );
        assert!(splice(&constant(&noise(2, &[2, 5])), to_vec(&block).unwrap(), splices.clone()).is_err());
    }
}
