//! 3×3 convolutions of stride 1 by Winograd's minimal filtering (Lavin and Gray 2015, arXiv 1509.09308): a tile of the picture is
//! transformed, multiplied point by point with the transformed filter, and transformed back. F(2×2) takes 16 products where the
//! direct way takes 36, F(4×4) takes 36 where it takes 144.
//!
//! The points where polynomials are evaluated are closed under inversion: 0, ∞, 1, −1 for F(2×2), and 2, ½ besides for F(4×4).
//! Turning a filter by 180° reverses its polynomials, which exchanges 0 with ∞ and 2 with ½. So the backward pass, a convolution
//! with the turned filter and its channels exchanged, reads the same transformed weights as the forward pass.

use std::marker::PhantomData;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::gemm::{Matrix, Write, product};

/// Tiles that are in work at a time: enough rows for a matrix product, few enough that their transforms stay in the cache.
const TILES: usize = 128;
/// Channels must be a multiple of it: the lanes of the widest registers.
pub(crate) const LANES: usize = 16;

/// Side of the squares that a tile results in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tile {
    /// F(2×2, 3×3): off by about 1e-6 of a result of size one.
    Two,
    /// F(4×4, 3×3): off by about 2e-5 of a result of size one.
    Four,
}

/// Which way a convolution goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From inputs to outputs.
    Forward,
    /// From the gradient of the outputs to that of the inputs.
    Backward,
}

/// Pictures `(count, height, width, channels)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pictures {
    pub(crate) count: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

/// A filter's transform.
#[derive(Debug)]
pub(crate) struct Filter {
    tile: Tile,
    /// `(points, inputs, outputs)`.
    weight: Vec<f32>,
    inputs: usize,
    outputs: usize,
}

impl Filter {
    /// From `weight` `(outputs, inputs, 3, 3)` as checkpoints have it.
    pub(crate) fn new(tile: Tile, weight: &[f32], inputs: usize, outputs: usize) -> Self {
        assert_eq!(weight.len(), 9 * inputs * outputs);
        let weight = match tile {
            Tile::Two => transformed(&F2::FILTER, weight, inputs, outputs),
            Tile::Four => transformed(&F4::FILTER, weight, inputs, outputs),
        };
        Self { tile, weight, inputs, outputs }
    }

    /// Adds the convolution of `x` to `out`, pictures of the same sides.
    pub(crate) fn add_to(&self, out: &mut [f32], x: &[f32], pictures: Pictures, direction: Direction) {
        match self.tile {
            Tile::Two => self.run::<2, 4, F2>(out, x, pictures, direction),
            Tile::Four => self.run::<4, 6, F4>(out, x, pictures, direction),
        }
    }

    fn run<const M: usize, const T: usize, F: Transform<M, T>>(
        &self,
        out: &mut [f32],
        x: &[f32],
        pictures: Pictures,
        direction: Direction,
    ) {
        let (from, to) = match direction {
            Direction::Forward => (self.inputs, self.outputs),
            Direction::Backward => (self.outputs, self.inputs),
        };
        assert!(from.is_multiple_of(LANES) && to.is_multiple_of(LANES), "{from} or {to} is no multiple of {LANES}");
        let grid = Grid { pictures, side: M };
        let (mut spread, mut products, zeros) = (Vec::new(), Vec::new(), vec![0.0; from]);
        for (first, out) in grid.blocks(out, to) {
            let tiles = grid.tiles(first, out.len() / to);
            spread.resize(tiles * T * T * from, 0.0);
            spread.par_chunks_exact_mut(T * T * from).enumerate().for_each(|(tile, spread)| {
                let pixels = grid.seen::<T>(first, tile).map(|row| {
                    row.map(|pixel| match pixel {
                        Some(pixel) => &x[pixel * from..][..from],
                        None => &zeros[..],
                    })
                });
                pulp::Arch::new().dispatch(Spread::<M, T, F> { out: spread, pixels, transform: PhantomData });
            });

            products.resize(T * T * tiles * to, 0.0);
            products.par_chunks_exact_mut(tiles * to).enumerate().for_each(|(point, products)| {
                let tiles = Matrix::strided(&spread[point * from..], tiles, from, T * T * from);
                product(products, to, Write::Replace, 1.0, tiles, self.at::<T, F, M>(point, direction));
            });

            grid.bands(first, out, to).into_par_iter().for_each(|(band, out)| {
                for column in 0..grid.across() {
                    let tile = (band - first) * grid.across() + column;
                    let points = std::array::from_fn(|i| {
                        std::array::from_fn(|j| &products[((i * T + j) * tiles + tile) * to..][..to])
                    });
                    let (width, left) = (pictures.width, column * M);
                    pulp::Arch::new().dispatch(Gather::<M, T, F> { out, points, width, left, transform: PhantomData });
                }
            });
        }
    }

    /// The matrix that tiles are multiplied with at a point, counted row by row.
    fn at<const T: usize, F: Transform<M, T>, const M: usize>(&self, point: usize, direction: Direction) -> Matrix<'_> {
        let len = self.inputs * self.outputs;
        let matrix = |point: usize| Matrix::packed(&self.weight[point * len..][..len], self.inputs, self.outputs);
        match direction {
            Direction::Forward => matrix(point),
            Direction::Backward => matrix(F::TURNED[point / T] * T + F::TURNED[point % T]).transposed(),
        }
    }
}

/// `(points, inputs, outputs)` from `(outputs, inputs, 3, 3)`.
fn transformed<const T: usize>(transform: &[[f32; 3]; T], weight: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let mut points = vec![0.0; T * T * inputs * outputs];
    points.par_chunks_mut(inputs * outputs).enumerate().for_each(|(point, out)| {
        let (rows, columns) = (transform[point / T], transform[point % T]);
        let factors: [f32; 9] = std::array::from_fn(|tap| rows[tap / 3] * columns[tap % 3]);
        for (o, filter) in weight.chunks_exact(9 * inputs).enumerate() {
            for (i, taps) in filter.chunks_exact(9).enumerate() {
                out[i * outputs + o] = taps.iter().zip(factors).map(|(w, f)| w * f).sum();
            }
        }
    });
    points
}

/// How pictures are cut into tiles: bands of tiles from left to right, numbered through all pictures.
#[derive(Clone, Copy)]
struct Grid {
    pictures: Pictures,
    side: usize,
}

impl Grid {
    /// Tiles of a band.
    fn across(&self) -> usize {
        self.pictures.width.div_ceil(self.side)
    }

    /// Bands of a picture.
    fn down(&self) -> usize {
        self.pictures.height.div_ceil(self.side)
    }

    /// Pixels of band `band`; the last of a picture may be cut off.
    fn pixels(&self, band: usize) -> usize {
        let top = band % self.down() * self.side;
        self.side.min(self.pictures.height - top) * self.pictures.width
    }

    /// Tiles from band `first` on that make up `pixels`.
    fn tiles(&self, first: usize, pixels: usize) -> usize {
        let (mut band, mut left) = (first, pixels);
        while left > 0 {
            left -= self.pixels(band);
            band += 1;
        }
        (band - first) * self.across()
    }

    /// The pixels under a tile, counted from band `first` on; none beyond the edge of its picture.
    fn seen<const T: usize>(&self, first: usize, tile: usize) -> [[Option<usize>; T]; T] {
        let Pictures { height, width, .. } = self.pictures;
        let band = first + tile / self.across();
        let (top, left) = (band % self.down() * self.side, tile % self.across() * self.side);
        let pixel = |i: usize, j: usize| {
            let (y, x) = ((top + i).checked_sub(1)?, (left + j).checked_sub(1)?);
            (y < height && x < width).then(|| (band / self.down() * height + y) * width + x)
        };
        std::array::from_fn(|i| std::array::from_fn(|j| pixel(i, j)))
    }

    /// Cuts pictures of `channels` into blocks of about [`TILES`], each with its first band.
    fn blocks<'a>(&self, out: &'a mut [f32], channels: usize) -> Vec<(usize, &'a mut [f32])> {
        let all = self.pictures.count * self.down();
        let per_block = (TILES / self.across()).max(1);
        self.cut(out, channels, (0..all).step_by(per_block).map(|first| (first, per_block.min(all - first))))
    }

    /// Cuts a block into its bands.
    fn bands<'a>(&self, first: usize, block: &'a mut [f32], channels: usize) -> Vec<(usize, &'a mut [f32])> {
        let bands = self.tiles(first, block.len() / channels) / self.across();
        self.cut(block, channels, (first..first + bands).map(|band| (band, 1)))
    }

    fn cut<'a>(
        &self,
        mut rest: &'a mut [f32],
        channels: usize,
        parts: impl Iterator<Item = (usize, usize)>,
    ) -> Vec<(usize, &'a mut [f32])> {
        let mut cut = Vec::new();
        for (first, bands) in parts {
            let len: usize = (first..first + bands).map(|band| self.pixels(band) * channels).sum();
            let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
            cut.push((first, part));
            rest = after;
        }
        cut
    }
}

/// The one-dimensional transforms of F(M, 3) with tiles of T = M + 2.
trait Transform<const M: usize, const T: usize> {
    /// Rows give the transform of a filter.
    const FILTER: [[f32; 3]; T];
    /// For each point, the point whose value the turned filter has there.
    const TURNED: [usize; T];

    fn input<S: Simd>(simd: S, d: [S::f32s; T]) -> [S::f32s; T];
    fn output<S: Simd>(simd: S, m: [S::f32s; T]) -> [S::f32s; M];
}

/// Points 0, 1, −1, ∞.
struct F2;

impl Transform<2, 4> for F2 {
    const FILTER: [[f32; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];
    const TURNED: [usize; 4] = [3, 1, 2, 0];

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

/// Points 0, 1, −1, 2, ½, ∞.
struct F4;

impl Transform<4, 6> for F4 {
    const FILTER: [[f32; 3]; 6] = [
        [1.0, 0.0, 0.0],
        [1.0, 1.0, 1.0],
        [1.0 / 9.0, -1.0 / 9.0, 1.0 / 9.0],
        [4.0 / 9.0, 8.0 / 9.0, 16.0 / 9.0],
        [16.0 / 9.0, 8.0 / 9.0, 4.0 / 9.0],
        [0.0, 0.0, 1.0],
    ];
    const TURNED: [usize; 6] = [5, 1, 2, 4, 3, 0];

    #[inline(always)]
    fn input<S: Simd>(simd: S, [d0, d1, d2, d3, d4, d5]: [S::f32s; 6]) -> [S::f32s; 6] {
        let times = |x, k: f32| simd.mul_f32s(x, simd.splat_f32s(k));
        let plus = |x, k: f32, sum| simd.mul_add_f32s(x, simd.splat_f32s(k), sum);
        let (outer, inner) = (simd.sub_f32s(d4, d1), simd.sub_f32s(d2, d3));
        let (even, odd) = (simd.sub_f32s(d4, d2), simd.sub_f32s(d1, d3));
        [
            plus(simd.sub_f32s(d3, d1), 2.5, simd.sub_f32s(d0, d4)),
            simd.sub_f32s(times(simd.add_f32s(d2, d3), 1.5), simd.add_f32s(d1, d4)),
            plus(inner, 3.5, outer),
            plus(even, 2.0, odd),
            plus(odd, 2.0, even),
            plus(simd.sub_f32s(d2, d4), 2.5, simd.sub_f32s(d5, d1)),
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(simd: S, [m0, m1, m2, m3, m4, m5]: [S::f32s; 6]) -> [S::f32s; 4] {
        let plus = |x, k: f32, sum| simd.mul_add_f32s(x, simd.splat_f32s(k), sum);
        let (sum, gap) = (simd.add_f32s(m1, m2), simd.sub_f32s(m1, m2));
        [
            simd.add_f32s(plus(m3, 0.125, simd.add_f32s(m0, sum)), m4),
            plus(m4, 0.5, plus(m3, 0.25, gap)),
            plus(m4, 0.25, plus(m3, 0.5, sum)),
            simd.add_f32s(plus(m4, 0.125, simd.add_f32s(gap, m3)), m5),
        ]
    }
}

/// Transforms one tile of the input.
struct Spread<'a, const M: usize, const T: usize, F> {
    /// `(points, channels)`.
    out: &'a mut [f32],
    pixels: [[&'a [f32]; T]; T],
    transform: PhantomData<F>,
}

impl<const M: usize, const T: usize, F: Transform<M, T>> WithSimd for Spread<'_, M, T, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let pixels = self.pixels.map(|row| row.map(|pixel| S::as_simd_f32s(pixel).0));
        let (out, _) = S::as_mut_simd_f32s(self.out);
        let vectors = pixels[0][0].len();
        for v in 0..vectors {
            let mut columns = [[simd.splat_f32s(0.0); T]; T];
            for j in 0..T {
                columns[j] = F::input(simd, std::array::from_fn(|i| pixels[i][j][v]));
            }
            for i in 0..T {
                let row = F::input(simd, std::array::from_fn(|j| columns[j][i]));
                for j in 0..T {
                    out[(i * T + j) * vectors + v] = row[j];
                }
            }
        }
    }
}

/// Transforms the products of one tile back and adds them to a band of the output.
struct Gather<'a, const M: usize, const T: usize, F> {
    /// `(rows, width, channels)`.
    out: &'a mut [f32],
    points: [[&'a [f32]; T]; T],
    width: usize,
    left: usize,
    transform: PhantomData<F>,
}

impl<const M: usize, const T: usize, F: Transform<M, T>> WithSimd for Gather<'_, M, T, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let points = self.points.map(|row| row.map(|point| S::as_simd_f32s(point).0));
        let (out, _) = S::as_mut_simd_f32s(self.out);
        let vectors = points[0][0].len();
        let rows = out.len() / (self.width * vectors);
        for v in 0..vectors {
            let mut columns = [[simd.splat_f32s(0.0); M]; T];
            for j in 0..T {
                columns[j] = F::output(simd, std::array::from_fn(|i| points[i][j][v]));
            }
            for i in 0..M.min(rows) {
                let row = F::output(simd, std::array::from_fn(|j| columns[j][i]));
                for j in 0..M.min(self.width - self.left) {
                    let at = &mut out[(i * self.width + self.left + j) * vectors + v];
                    *at = simd.add_f32s(*at, row[j]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::noise;
    use super::super::to_vec;
    use super::*;
    use proptest::prelude::*;

    /// Each way of the convolution by its definition, in double precision.
    fn by_definition(x: &[f32], weight: &[f32], p: Pictures, (from, to): (usize, usize), back: bool) -> Vec<f32> {
        let mut out = vec![0.0; p.count * p.height * p.width * to];
        for (at, out) in out.iter_mut().enumerate() {
            let (o, pixel) = (at % to, at / to);
            let (x0, y0, sample) = (pixel % p.width, pixel / p.width % p.height, pixel / p.width / p.height);
            let mut sum = 0.0f64;
            for tap in 0..9 {
                let (y, x1) = ((y0 + tap / 3).wrapping_sub(1), (x0 + tap % 3).wrapping_sub(1));
                if y >= p.height || x1 >= p.width {
                    continue;
                }
                for i in 0..from {
                    let w = if back { weight[(i * to + o) * 9 + 8 - tap] } else { weight[(o * from + i) * 9 + tap] };
                    sum += f64::from(w) * f64::from(x[((sample * p.height + y) * p.width + x1) * from + i]);
                }
            }
            *out = sum as f32;
        }
        out
    }

    fn worst(tile: Tile, p: Pictures, (inputs, outputs): (usize, usize), direction: Direction) -> f32 {
        let back = direction == Direction::Backward;
        let (from, to) = if back { (outputs, inputs) } else { (inputs, outputs) };
        let weight = to_vec(&noise(1, &[outputs, inputs, 3, 3])).unwrap();
        let x = to_vec(&noise(2, &[p.count, p.height, p.width, from])).unwrap();
        let mut out = vec![0.0; p.count * p.height * p.width * to];
        Filter::new(tile, &weight, inputs, outputs).add_to(&mut out, &x, p, direction);
        let want = by_definition(&x, &weight, p, (from, to), back);
        let size = want.iter().fold(0f32, |m, x| m.max(x.abs()));
        out.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn both_ways_agree_with_the_definition_on_any_sides(
            count in 1usize..4, height in 1usize..14, width in 1usize..14, inputs in 1usize..3, outputs in 1usize..3,
        ) {
            let pictures = Pictures { count, height, width };
            for direction in [Direction::Forward, Direction::Backward] {
                let channels = (inputs * LANES, outputs * LANES);
                prop_assert!(worst(Tile::Two, pictures, channels, direction) < 2e-6);
                prop_assert!(worst(Tile::Four, pictures, channels, direction) < 2e-5);
            }
        }
    }

    #[test]
    fn a_picture_has_the_same_bits_in_any_company() {
        let one = Pictures { count: 1, height: 16, width: 16 };
        let (weight, x) = (to_vec(&noise(1, &[16, 16, 3, 3])).unwrap(), to_vec(&noise(2, &[5, 16, 16, 16])).unwrap());
        for tile in [Tile::Two, Tile::Four] {
            let filter = Filter::new(tile, &weight, 16, 16);
            let mut together = vec![0.0; x.len()];
            filter.add_to(&mut together, &x, Pictures { count: 5, ..one }, Direction::Forward);
            for (together, x) in together.chunks(16 * 16 * 16).zip(x.chunks(16 * 16 * 16)) {
                let mut alone = vec![0.0; x.len()];
                filter.add_to(&mut alone, x, one, Direction::Forward);
                assert!(alone == together, "{tile:?}");
            }
        }
    }
}
