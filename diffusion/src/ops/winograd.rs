//! 3×3 convolutions of stride 1 by Winograd's minimal filtering (Lavin and Gray 2015, arXiv 1509.09308): a tile of the picture is
//! transformed, multiplied point by point with the transformed filter, and transformed back. F(2×2) takes 16 products where the
//! direct way takes 36, F(4×4) takes 36 where it takes 144.
//!
//! The transformed filter, 16/9 and 4 times as large as the filter, never exists as a whole: each thread transforms a few channels
//! of sixteen outputs at a time, which stay in its cache while all tiles are multiplied with them. The backward pass is the same
//! convolution with the filter turned by 180° and its channels exchanged.

mod transforms;

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::gemm::{Matrix, Write};
use super::kernel::{LANES, ROWS, Strip};
use super::panels::{BLOCK, Panels};
use super::scratch::Scratch;
use transforms::{F2, F4, Gather, Points, Spread, Transform};

/// Tiles that a thread has in work at a time, at most: enough to be worth the transform of the filter.
const TILES: usize = 64;
/// Transformed values and products that a thread has in work at a time, unless one band of tiles has more: all threads' are to stay
/// in the last cache.
const AT_WORK: usize = 1 << 21;
/// Tiles that are transformed by one thread at a time.
const GROUP: usize = 4 * ROWS;
/// Values of the transformed filter that a thread holds at a time, within the second cache.
const HELD: usize = 1 << 16;

/// Side of the squares that a tile results in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tile {
    /// F(2×2, 3×3): off by about 1e-6 of a result of size one.
    Two,
    /// F(4×4, 3×3): off by about 1e-5 of a result of size one.
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

/// What a convolution is added to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Onto<'a> {
    /// Nothing.
    Zeros,
    /// A row for each picture, `(count, channels)`, the same at all its pixels.
    Rows(&'a [f32]),
    /// Such a row and what stands there.
    RowsAndOld(&'a [f32]),
}

impl<'a> Onto<'a> {
    /// The row of a picture from channel `first` on.
    fn lanes(self, picture: usize, channels: usize, first: usize) -> &'a [f32] {
        match self {
            Self::Zeros => &[0.0; LANES],
            Self::Rows(rows) | Self::RowsAndOld(rows) => &rows[picture * channels + first..][..LANES],
        }
    }
}

/// Pictures `(count, height, width, channels)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pictures {
    pub(crate) count: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

/// A 3×3 filter between channels that [`LANES`] divides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filter<'a> {
    /// `(9 · inputs, outputs)`, taps row by row.
    pub(crate) taps: &'a Panels,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

impl Filter<'_> {
    /// Writes the convolution of `x` to `out`, pictures of the same sides, added `onto` something.
    pub(crate) fn write_to(
        &self,
        tile: Tile,
        (out, onto): (&mut [f32], Onto<'_>),
        x: &[f32],
        pictures: Pictures,
        direction: Direction,
    ) {
        match tile {
            Tile::Two => self.run::<2, 4, F2>((out, onto), x, pictures, direction),
            Tile::Four => self.run::<4, 6, F4>((out, onto), x, pictures, direction),
        }
    }

    fn run<const M: usize, const T: usize, F: Transform<M, T>>(
        &self,
        (out, onto): (&mut [f32], Onto<'_>),
        x: &[f32],
        pictures: Pictures,
        direction: Direction,
    ) {
        let (from, to) = match direction {
            Direction::Forward => (self.inputs, self.outputs),
            Direction::Backward => (self.outputs, self.inputs),
        };
        assert!(from.is_multiple_of(LANES) && to.is_multiple_of(LANES), "{from} or {to} is no multiple of {LANES}");
        let (grid, depth) = (Grid { pictures, side: M }, depth(from, HELD / (T * T * LANES)));
        let zeros = vec![0.0; depth];
        let tiles = TILES.min(AT_WORK / (T * T * (from + to)));
        // Threads take blocks of their own while there are any: within one they wait for each other twice.
        grid.blocks(out, to, tiles).into_par_iter().for_each(|(first, out)| {
            let (mut spread, mut products) = (Scratch::take(), Scratch::take());
            let tiles = grid.tiles(first, out.len() / to);
            let spread = spread.values(tiles * T * T * from);
            let parts = Parts { tiles, channels: from, depth };
            parts.cut(T * T, spread).into_par_iter().for_each(|(part, spread)| {
                for (at, tile) in part.tiles.clone().enumerate() {
                    let pixels = grid.seen::<T>(first, tile).map(|row| {
                        row.map(|pixel| match pixel {
                            Some(pixel) => &x[pixel * from + part.channels.start..][..part.channels.len()],
                            None => &zeros[..part.channels.len()],
                        })
                    });
                    let (out, tiles) = (&mut *spread, part.tiles.len());
                    pulp::Arch::new().dispatch(Spread::<M, T, F> { out, at, tiles, pixels, transform: PhantomData });
                }
            });

            let products = products.values(T * T * tiles * to);
            let panels = products.par_chunks_exact_mut(T * T * tiles * LANES).enumerate();
            let scratch = || (Scratch::take(), [0.0; 9 * BLOCK]);
            panels.for_each_init(scratch, |(points, room), (panel, products)| {
                let points = points.values(T * T * depth * LANES);
                for channels in parts.depths() {
                    for inner in (0..channels.len()).step_by(LANES) {
                        let taps = self.taps(direction, panel, channels.start + inner, room);
                        let shape = (inner, channels.len());
                        pulp::Arch::new().dispatch(Points::<M, T, F> {
                            out: points,
                            taps,
                            shape,
                            transform: PhantomData,
                        });
                    }
                    parts.multiply(T * T, products, spread, points, channels);
                }
            });

            grid.bands(first, out, to).into_par_iter().for_each(|(band, out)| {
                for column in 0..grid.across() {
                    let tile = (band - first) * grid.across() + column;
                    for panel in 0..to / LANES {
                        let products = &products[panel * T * T * tiles * LANES..][..T * T * tiles * LANES];
                        let points = std::array::from_fn(|i| {
                            std::array::from_fn(|j| &products[((i * T + j) * tiles + tile) * LANES..][..LANES])
                        });
                        let (shape, left) = ((pictures.width, to / LANES, panel), column * M);
                        let row = onto.lanes(band / grid.down(), to, panel * LANES);
                        let old = matches!(onto, Onto::RowsAndOld(_));
                        let transform = PhantomData;
                        pulp::Arch::new().dispatch(Gather::<M, T, F> { out, points, shape, left, row, old, transform });
                    }
                }
            });
        });
    }

    /// The nine taps between [`LANES`] channels from `channel` on and a panel of results, `(LANES, LANES)` each.
    fn taps<'a>(&'a self, direction: Direction, panel: usize, channel: usize, room: &'a mut [f32]) -> [&'a [f32]; 9] {
        let rows = |tap: usize, first: usize| tap * self.inputs + first..tap * self.inputs + first + LANES;
        match direction {
            Direction::Forward => {
                (0..9).for_each(|tap| self.taps.fetch(panel, rows(tap, channel + LANES)));
                let mut rooms = room.chunks_exact_mut(BLOCK);
                let mut taken = || rooms.next().unwrap_or_default();
                std::array::from_fn(|tap| self.taps.rows(panel, rows(tap, channel), taken()))
            }
            Direction::Backward => {
                for (tap, out) in room.chunks_exact_mut(BLOCK).enumerate() {
                    self.taps.fetch(channel / LANES + 1, rows(8 - tap, panel * LANES));
                    self.taps.turned(channel / LANES, rows(8 - tap, panel * LANES), out);
                }
                std::array::from_fn(|tap| &room[tap * BLOCK..][..BLOCK])
            }
        }
    }
}

/// As many of `all` at a time as make up pieces of much the same size, at most `most` or one.
fn even(all: usize, most: usize) -> usize {
    all.div_ceil(all.div_ceil(most.max(1)).max(1))
}

/// Channels that are multiplied at a time, of all of a picture: whole vectors, at most `most`.
fn depth(channels: usize, most: usize) -> usize {
    LANES * even(channels / LANES, most / LANES)
}

/// How transformed tiles lie: channels `depth` by `depth`, within them tiles [`GROUP`] by `GROUP`, and of each such part
/// `(points, tiles, channels)`.
#[derive(Clone, Copy)]
struct Parts {
    tiles: usize,
    channels: usize,
    depth: usize,
}

struct Part {
    tiles: Range<usize>,
    channels: Range<usize>,
}

impl Parts {
    fn depths(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.channels).step_by(self.depth).map(move |first| first..self.channels.min(first + self.depth))
    }

    fn groups(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.tiles).step_by(GROUP).map(move |first| first..self.tiles.min(first + GROUP))
    }

    fn cut(self, points: usize, mut spread: &mut [f32]) -> Vec<(Part, &mut [f32])> {
        let mut parts = Vec::new();
        for channels in self.depths() {
            for tiles in self.groups() {
                let (part, rest) = spread.split_at_mut(points * tiles.len() * channels.len());
                parts.push((Part { tiles, channels: channels.clone() }, part));
                spread = rest;
            }
        }
        parts
    }

    /// Adds the products of `channels` of all tiles with a transformed filter `(points, channels, LANES)` to `out`
    /// `(points, tiles, LANES)`.
    fn multiply(self, points: usize, out: &mut [f32], spread: &[f32], filter: &[f32], channels: Range<usize>) {
        let (into, depth) = (if channels.start == 0 { Write::Replace } else { Write::Add }, channels.len());
        for tiles in self.groups() {
            let part = &spread[points * (channels.start * self.tiles + tiles.start * depth)..];
            for point in 0..points {
                let lhs = Matrix::packed(&part[point * tiles.len() * depth..], tiles.len(), depth);
                let panel = &filter[point * depth * LANES..][..depth * LANES];
                let out = &mut out[(point * self.tiles + tiles.start) * LANES..][..tiles.len() * LANES];
                let (stride, width, pitch, scale) = (LANES, LANES, LANES, 1.0);
                Strip { out, stride, width, into, scale, lhs, panel, pitch, next: &[] }.run();
            }
        }
    }
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

    /// Cuts pictures of `channels` into blocks of much the same size, of at most `tiles` or one band, each with its first band.
    fn blocks<'a>(&self, out: &'a mut [f32], channels: usize, tiles: usize) -> Vec<(usize, &'a mut [f32])> {
        let all = self.pictures.count * self.down();
        let per_block = even(all, tiles / self.across());
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
        let mut out = vec![0.5; p.count * p.height * p.width * to];
        let taps = Panels::taps(&weight, 9, inputs, outputs).unwrap();
        Filter { taps: &taps, inputs, outputs }.write_to(tile, (&mut out, Onto::Zeros), &x, p, direction);
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
            let taps = Panels::taps(&weight, 9, 16, 16).unwrap();
            let filter = Filter { taps: &taps, inputs: 16, outputs: 16 };
            let mut together = vec![0.0; x.len()];
            let five = Pictures { count: 5, ..one };
            filter.write_to(tile, (&mut together, Onto::Zeros), &x, five, Direction::Forward);
            for (together, x) in together.chunks(16 * 16 * 16).zip(x.chunks(16 * 16 * 16)) {
                let mut alone = vec![0.0; x.len()];
                filter.write_to(tile, (&mut alone, Onto::Zeros), x, one, Direction::Forward);
                assert!(alone == together, "{tile:?}");
            }
        }
    }
}
