//! The transforms of tiles, of filters and of products, on registers (Lavin and Gray 2015, arXiv 1509.09308).

use std::marker::PhantomData;

use pulp::{Simd, WithSimd};

use super::super::kernel::LANES;
use super::super::panels::BLOCK;

/// `k · x`. No closure, and no `from_fn` in what follows: the compiler would leave some of them out of line, without the vectors.
#[inline(always)]
fn times<S: Simd>(simd: S, x: S::f32s, k: f32) -> S::f32s {
    simd.mul_f32s(x, simd.splat_f32s(k))
}

/// `k · x + sum`.
#[inline(always)]
fn plus<S: Simd>(simd: S, x: S::f32s, k: f32, sum: S::f32s) -> S::f32s {
    simd.mul_add_f32s(x, simd.splat_f32s(k), sum)
}

/// The one-dimensional transforms of F(M, 3) with tiles of T = M + 2.
pub(super) trait Transform<const M: usize, const T: usize> {
    fn filter<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; T];
    fn input<S: Simd>(simd: S, d: [S::f32s; T]) -> [S::f32s; T];
    fn output<S: Simd>(simd: S, m: [S::f32s; T]) -> [S::f32s; M];
}

/// Points 0, 1, −1, ∞.
pub(super) struct F2;

impl Transform<2, 4> for F2 {
    #[inline(always)]
    fn filter<S: Simd>(simd: S, [g0, g1, g2]: [S::f32s; 3]) -> [S::f32s; 4] {
        let (outer, inner) = (times(simd, simd.add_f32s(g0, g2), 0.5), times(simd, g1, 0.5));
        [g0, simd.add_f32s(outer, inner), simd.sub_f32s(outer, inner), g2]
    }

    #[inline(always)]
    fn input<S: Simd>(simd: S, [d0, d1, d2, d3]: [S::f32s; 4]) -> [S::f32s; 4] {
        [simd.sub_f32s(d0, d2), simd.add_f32s(d1, d2), simd.sub_f32s(d2, d1), simd.sub_f32s(d3, d1)]
    }

    #[inline(always)]
    fn output<S: Simd>(simd: S, [m0, m1, m2, m3]: [S::f32s; 4]) -> [S::f32s; 2] {
        let (sum, gap) = (simd.add_f32s(m1, m2), simd.sub_f32s(m1, m2));
        [simd.add_f32s(m0, sum), simd.add_f32s(gap, m3)]
    }
}

/// Points 0, 1, −1, ½, −2, ∞: of those with short transforms the ones that lose the least (Barabasz et al. 2020, arXiv 1803.10986).
pub(super) struct F4;

impl Transform<4, 6> for F4 {
    #[inline(always)]
    fn filter<S: Simd>(simd: S, [g0, g1, g2]: [S::f32s; 3]) -> [S::f32s; 6] {
        let (outer, third) = (simd.add_f32s(g0, g2), 1.0 / 3.0);
        [
            g0,
            times(simd, simd.add_f32s(g1, outer), third),
            times(simd, simd.sub_f32s(g1, outer), third),
            plus(simd, g0, -16.0 / 15.0, plus(simd, g1, -8.0 / 15.0, times(simd, g2, -4.0 / 15.0))),
            plus(simd, g0, 1.0 / 15.0, plus(simd, g1, -2.0 / 15.0, times(simd, g2, 4.0 / 15.0))),
            g2,
        ]
    }

    #[inline(always)]
    fn input<S: Simd>(simd: S, [d0, d1, d2, d3, d4, d5]: [S::f32s; 6]) -> [S::f32s; 6] {
        let (even, odd) = (simd.sub_f32s(d4, d2), simd.sub_f32s(d3, d1));
        [
            plus(simd, d2, -2.0, plus(simd, odd, 1.5, simd.add_f32s(d0, d4))),
            plus(simd, d3, 2.5, plus(simd, d2, 0.5, simd.sub_f32s(d4, d1))),
            plus(simd, d2, -2.5, plus(simd, d3, 0.5, simd.add_f32s(d4, d1))),
            plus(simd, odd, 2.0, even),
            plus(simd, odd, -0.5, even),
            plus(simd, d3, -2.0, plus(simd, even, 1.5, simd.add_f32s(d1, d5))),
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(simd: S, [m0, m1, m2, m3, m4, m5]: [S::f32s; 6]) -> [S::f32s; 4] {
        let (sum, gap) = (simd.add_f32s(m1, m2), simd.sub_f32s(m1, m2));
        [
            simd.add_f32s(simd.add_f32s(m0, sum), simd.add_f32s(m3, m4)),
            plus(simd, m4, -2.0, plus(simd, m3, 0.5, gap)),
            plus(simd, m4, 4.0, plus(simd, m3, 0.25, sum)),
            simd.add_f32s(plus(simd, m4, -8.0, plus(simd, m3, 0.125, gap)), m5),
        ]
    }
}

/// Transforms one tile of the input.
pub(super) struct Spread<'a, const M: usize, const T: usize, F> {
    /// `(points, tiles, channels)`, of which the tile `at` is written.
    pub(super) out: &'a mut [f32],
    pub(super) at: usize,
    pub(super) tiles: usize,
    pub(super) pixels: [[&'a [f32]; T]; T],
    pub(super) transform: PhantomData<F>,
}

impl<const M: usize, const T: usize, F: Transform<M, T>> WithSimd for Spread<'_, M, T, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let pixels = self.pixels.map(|row| row.map(|pixel| S::as_simd_f32s(pixel).0));
        let (out, _) = S::as_mut_simd_f32s(self.out);
        let vectors = pixels[0][0].len();
        for v in 0..vectors {
            let (mut columns, mut line) = ([[simd.splat_f32s(0.0); T]; T], [simd.splat_f32s(0.0); T]);
            for j in 0..T {
                for i in 0..T {
                    line[i] = pixels[i][j][v];
                }
                columns[j] = F::input(simd, line);
            }
            for i in 0..T {
                for j in 0..T {
                    line[j] = columns[j][i];
                }
                let row = F::input(simd, line);
                for j in 0..T {
                    out[((i * T + j) * self.tiles + self.at) * vectors + v] = row[j];
                }
            }
        }
    }
}

/// Transforms [`LANES`] channels of a panel of a filter.
pub(super) struct Points<'a, const M: usize, const T: usize, F> {
    /// `(points, channels, LANES)`, of which the channels from `shape.0` on are written; there are `shape.1`.
    pub(super) out: &'a mut [f32],
    pub(super) taps: [&'a [f32]; 9],
    pub(super) shape: (usize, usize),
    pub(super) transform: PhantomData<F>,
}

impl<const M: usize, const T: usize, F: Transform<M, T>> WithSimd for Points<'_, M, T, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let taps = self.taps.map(|tap| S::as_simd_f32s(tap).0);
        let (out, _) = S::as_mut_simd_f32s(self.out);
        let (vectors, (first, channels)) = (LANES / S::F32_LANES, self.shape);
        for v in 0..BLOCK / S::F32_LANES {
            let mut columns = [[simd.splat_f32s(0.0); T]; 3];
            for j in 0..3 {
                columns[j] = F::filter(simd, [taps[j][v], taps[3 + j][v], taps[6 + j][v]]);
            }
            for i in 0..T {
                let row = F::filter(simd, [columns[0][i], columns[1][i], columns[2][i]]);
                for j in 0..T {
                    out[((i * T + j) * channels + first) * vectors + v] = row[j];
                }
            }
        }
    }
}

/// Transforms the products of one tile back and writes them to a panel of channels of a band of the output.
pub(super) struct Gather<'a, const M: usize, const T: usize, F> {
    /// `(rows, width, panels, LANES)`.
    pub(super) out: &'a mut [f32],
    pub(super) points: [[&'a [f32]; T]; T],
    /// Width, panels, and the panel that is written.
    pub(super) shape: (usize, usize, usize),
    pub(super) left: usize,
    /// What is added, `(LANES)`.
    pub(super) row: &'a [f32],
    /// Whether what stands in `out` is added, too.
    pub(super) old: bool,
    pub(super) transform: PhantomData<F>,
}

impl<const M: usize, const T: usize, F: Transform<M, T>> WithSimd for Gather<'_, M, T, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let points = self.points.map(|row| row.map(|point| S::as_simd_f32s(point).0));
        let ((out, _), (row, _)) = (S::as_mut_simd_f32s(self.out), S::as_simd_f32s(self.row));
        let (vectors, (width, panels, panel)) = (LANES / S::F32_LANES, self.shape);
        let rows = out.len() / (width * panels * vectors);
        for v in 0..vectors {
            let (mut columns, mut line) = ([[simd.splat_f32s(0.0); M]; T], [simd.splat_f32s(0.0); T]);
            for j in 0..T {
                for i in 0..T {
                    line[i] = points[i][j][v];
                }
                columns[j] = F::output(simd, line);
            }
            for i in 0..M.min(rows) {
                for j in 0..T {
                    line[j] = columns[j][i];
                }
                let values = F::output(simd, line);
                for j in 0..M.min(width - self.left) {
                    let at = &mut out[((i * width + self.left + j) * panels + panel) * vectors + v];
                    let value = simd.add_f32s(values[j], row[v]);
                    *at = if self.old { simd.add_f32s(*at, value) } else { value };
                }
            }
        }
    }
}
