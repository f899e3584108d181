//! The inner loop of every product: up to six rows by sixteen columns, kept in registers.

use pulp::{Simd, WithSimd};

use super::gemm::{Matrix, Write, fits};

/// Columns of a panel: one register of AVX-512, two of AVX2.
pub(crate) const LANES: usize = 16;
/// Rows of a tile; with two registers of a panel and one of a row, its sums fill AVX2's sixteen.
pub(super) const ROWS: usize = 6;
/// Terms that are added in one turn of the loop.
const UNROLLED: usize = 4;

/// `out (+)= scale · lhs · panel`. A value is one chain of fused additions over the depth, whatever the rows around it.
pub(super) struct Strip<'a> {
    /// Rows of `width` values, one every `stride` values.
    pub(super) out: &'a mut [f32],
    pub(super) stride: usize,
    /// At most [`LANES`].
    pub(super) width: usize,
    pub(super) into: Write<'a>,
    pub(super) scale: f32,
    /// `(rows, depth)`, the values of a row side by side.
    pub(super) lhs: Matrix<'a>,
    /// `(depth, LANES)`, a row every `pitch` values.
    pub(super) panel: &'a [f32],
    pub(super) pitch: usize,
    /// What is read next; it is fetched into the cache meanwhile.
    pub(super) next: &'a [f32],
}

/// Asks for the cache line of a value.
#[inline(always)]
pub(super) fn fetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    // SAFETY: a hint that reads nothing; SSE, which has it, is part of every x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// All columns of a panel.
impl WithSimd for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // The compiler knows the size, and keeps one of them.
        match LANES / S::F32_LANES {
            1 => self.tiles::<S, 1>(simd),
            2 => self.tiles::<S, 2>(simd),
            4 => self.tiles::<S, 4>(simd),
            LANES => self.tiles::<S, LANES>(simd),
            other => unreachable!("{LANES} columns are {other} vectors"),
        }
    }
}

/// A strip of at most half a panel's columns, on vectors of half a panel.
#[cfg(target_arch = "x86_64")]
struct Half<'a>(Strip<'a>, pulp::x86::V3);

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for Half<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.tiles::<_, 1>(self.1);
    }
}

impl Strip<'_> {
    /// Computes it, with the widest vectors of this processor that its columns fill.
    pub(super) fn run(self) {
        #[cfg(target_arch = "x86_64")]
        if self.width <= LANES / 2
            && let Some(simd) = pulp::x86::V3::try_new()
        {
            return simd.vectorize(Half(self, simd));
        }
        pulp::Arch::new().dispatch(self);
    }

    #[inline(always)]
    fn tiles<S: Simd, const V: usize>(mut self, simd: S) {
        let (rows, depth) = self.lhs.sizes();
        assert!(fits(self.panel.len(), depth, LANES, self.pitch), "a panel of depth {depth}");
        assert_eq!(self.lhs.strides().1, 1, "the values of a row lie side by side");
        assert!(self.width <= LANES && fits(self.out.len(), rows, self.width, self.stride));
        assert!(self.next.is_empty() || self.next.len() == depth * LANES);
        let fetching = !self.next.is_empty();
        for first in (0..rows).step_by(ROWS) {
            match rows - first {
                1 => self.tile::<S, V, 1, false>(simd, first),
                2 => self.tile::<S, V, 2, false>(simd, first),
                3 => self.tile::<S, V, 3, false>(simd, first),
                4 => self.tile::<S, V, 4, false>(simd, first),
                5 => self.tile::<S, V, 5, false>(simd, first),
                _ if first == 0 && fetching => self.tile::<S, V, ROWS, true>(simd, first),
                _ => self.tile::<S, V, ROWS, false>(simd, first),
            }
        }
    }

    /// Rows `first` to `first + M`.
    #[inline(always)]
    fn tile<S: Simd, const V: usize, const M: usize, const FETCH: bool>(&mut self, simd: S, first: usize) {
        let sums = self.sums::<S, V, M, FETCH>(simd, first);
        for (i, sums) in sums.into_iter().enumerate() {
            let out = &mut self.out[(first + i) * self.stride..][..self.width];
            match out.len() {
                LANES => write(simd, out, sums, self.into, self.scale),
                width => {
                    let (mut whole, mut row) = ([0.0; LANES], [0.0; LANES]);
                    whole[..width].copy_from_slice(out);
                    let into = match self.into {
                        Write::Over(values) => {
                            row[..width].copy_from_slice(&values[..width]);
                            Write::Over(&row)
                        }
                        into => into,
                    };
                    write(simd, &mut whole, sums, into, self.scale);
                    out.copy_from_slice(&whole[..width]);
                }
            }
        }
    }

    /// Several terms are taken at a time: their addresses are constants then.
    #[inline(always)]
    fn sums<S: Simd, const V: usize, const M: usize, const FETCH: bool>(
        &self,
        simd: S,
        first: usize,
    ) -> [[S::f32s; V]; M] {
        let (_, depth) = self.lhs.sizes();
        let mut sums = [[simd.splat_f32s(0.0); V]; M];
        let whole = depth / UNROLLED * UNROLLED;
        for k in (0..whole).step_by(UNROLLED) {
            self.add::<S, V, M, UNROLLED, FETCH>(simd, first, k, &mut sums);
        }
        for k in whole..depth {
            self.add::<S, V, M, 1, FETCH>(simd, first, k, &mut sums);
        }
        sums
    }

    /// Adds terms `k` to `k + U`.
    #[allow(unsafe_code)]
    #[inline(always)]
    fn add<S: Simd, const V: usize, const M: usize, const U: usize, const FETCH: bool>(
        &self,
        simd: S,
        first: usize,
        k: usize,
        sums: &mut [[S::f32s; V]; M],
    ) {
        let ((rows, depth), (row, _)) = (self.lhs.sizes(), self.lhs.strides());
        debug_assert!(first + M <= rows && k + U <= depth && V * S::F32_LANES >= self.width);
        let (lhs, panel) = (self.lhs.data().as_ptr(), self.panel.as_ptr());
        for u in k..k + U {
            if FETCH {
                // SAFETY: what is fetched is as long as the panel, as `tiles` has asserted.
                fetch(unsafe { self.next.get_unchecked(u * LANES) });
            }
            let mut vectors = [simd.splat_f32s(0.0); V];
            for (j, vector) in vectors.iter_mut().enumerate() {
                // SAFETY: the panel has `depth` rows of LANES values, of which V vectors are read, every `pitch` values, as `tiles` has
                // asserted; they are read without regard to alignment, and u < depth.
                *vector = unsafe { panel.add(u * self.pitch).cast::<S::f32s>().add(j).read_unaligned() };
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                // SAFETY: a matrix's element (i, k) lies at i·row + k·col inside its slice, which `Matrix` ensures when it is made;
                // first + i < rows and u < depth, and `tiles` has asserted that col is 1.
                let factor = unsafe { *lhs.add((first + i) * row + u) };
                let factor = simd.splat_f32s(factor);
                for j in 0..V {
                    sums[j] = simd.mul_add_e_f32s(factor, vectors[j], sums[j]);
                }
            }
        }
    }
}

#[inline(always)]
fn write<S: Simd, const V: usize>(simd: S, out: &mut [f32], sums: [S::f32s; V], into: Write<'_>, scale: f32) {
    let (out, scale) = (S::as_mut_simd_f32s(out).0, simd.splat_f32s(scale));
    for j in 0..V {
        out[j] = match into {
            Write::Replace => simd.mul_f32s(sums[j], scale),
            Write::Over(row) => simd.mul_add_e_f32s(sums[j], scale, S::as_simd_f32s(row).0[j]),
            Write::Add => simd.mul_add_e_f32s(sums[j], scale, out[j]),
        };
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use pulp::x86::{V3, V4};

    use super::super::testing::noise;
    use super::super::to_vec;
    use super::*;

    /// What a strip gives that `run` runs.
    fn strip(lhs: Matrix<'_>, panel: &[f32], pitch: usize, width: usize, run: impl FnOnce(Strip<'_>)) -> Vec<f32> {
        let (rows, _) = lhs.sizes();
        let (mut out, stride, scale) = (vec![0.5; rows * width], width, 0.75);
        run(Strip { out: &mut out, stride, width, into: Write::Add, scale, lhs, panel, pitch, next: &[] });
        out
    }

    #[test]
    fn vectors_of_any_length_give_the_same_bits() {
        let (Some(v3), Some(v4)) = (V3::try_new(), V4::try_new()) else { return };
        let values = to_vec(&noise(1, &[64 * 64])).unwrap();
        for (rows, depth, pitch) in [(1, 1, LANES), (13, 19, LANES), (24, 40, 5 * LANES)] {
            let panel = &values[..(depth - 1) * pitch + LANES];
            for lhs in [Matrix::packed(&values, rows, depth), Matrix::strided(&values, rows, depth, 64)] {
                for width in [LANES, LANES - 3, LANES / 2, 1] {
                    let run = |run: &dyn Fn(Strip<'_>)| strip(lhs, panel, pitch, width, run);
                    let wide = run(&|strip| pulp::Simd::vectorize(v4, strip));
                    assert_eq!(wide, run(&|strip| pulp::Simd::vectorize(v3, strip)), "{rows}×{depth}, {width} columns");
                    assert_eq!(wide, run(&|strip| strip.run()), "{rows}×{depth}, {width} columns, as they are run");
                }
            }
        }
    }
}
