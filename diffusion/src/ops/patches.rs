//! The 3×3 neighbourhoods of pictures, gathered into rows of a matrix.

use rayon::prelude::*;

/// Values of the gathered patches of one piece of work, unless that would be too few pixels.
const PIECE: usize = 1 << 16;

/// Sides of the pictures on one side of a convolution.
#[derive(Clone, Copy)]
pub(super) struct Sides {
    pub(super) height: usize,
    pub(super) width: usize,
}

/// The pixel of the input under `tap` of the filter at output `(y, x)`; none where there is padding.
fn source((step, before, _): (usize, usize, usize), from: Sides, (y, x): (usize, usize), tap: usize) -> Option<usize> {
    let row = (y * step + tap / 3).checked_sub(before)?;
    let column = (x * step + tap % 3).checked_sub(before)?;
    (row < from.height && column < from.width).then(|| row * from.width + column)
}

/// The 3×3 neighbourhoods of pictures `(b, h, w, c)`.
pub(super) struct Patches<'a> {
    pub(super) x: &'a [f32],
    pub(super) channels: usize,
    pub(super) from: Sides,
    pub(super) to: Sides,
    pub(super) numbers: (usize, usize, usize),
}

impl Patches<'_> {
    /// Pixels of one piece of work; at least so many, since each piece reads all of the weights.
    pub(super) fn pixels_per_piece(&self) -> usize {
        (PIECE / (9 * self.channels)).clamp(128, 1024)
    }

    /// The patches of every output pixel.
    pub(super) fn all(&self) -> Vec<f32> {
        let c = self.channels;
        let count = self.x.len() / (self.from.height * self.from.width * c) * self.to.height * self.to.width;
        let mut rows = vec![0.0; count * 9 * c];
        rows.par_chunks_exact_mut(9 * c).enumerate().for_each(|(pixel, row)| self.gather_one_of(row, pixel));
        rows
    }

    /// Writes the patches of `count` output pixels, counted through all samples, as rows `(9, c)`.
    pub(super) fn gather(&self, rows: &mut Vec<f32>, first: usize, count: usize) {
        let c = self.channels;
        rows.resize(count * 9 * c, 0.0);
        for (at, row) in rows.chunks_exact_mut(9 * c).enumerate() {
            self.gather_one_of(row, first + at);
        }
    }

    /// Writes the patch of an output pixel, counted through all samples.
    fn gather_one_of(&self, row: &mut [f32], pixel: usize) {
        let per_sample = self.to.height * self.to.width;
        let (sample, pixel) = (pixel / per_sample, pixel % per_sample);
        let picture = &self.x[sample * self.from.height * self.from.width * self.channels..];
        self.gather_one(row, picture, pixel / self.to.width, pixel % self.to.width);
    }

    fn gather_one(&self, row: &mut [f32], picture: &[f32], y: usize, x: usize) {
        let (c, (step, before, _), from) = (self.channels, self.numbers, self.from);
        let left = x * step;
        let inside = left >= before && left + 3 - before <= from.width;
        for (dy, line) in row.chunks_exact_mut(3 * c).enumerate() {
            let top = y * step + dy;
            if top < before || top - before >= from.height {
                line.fill(0.0);
            } else if inside {
                let start = ((top - before) * from.width + left - before) * c;
                line.copy_from_slice(&picture[start..start + 3 * c]);
            } else {
                for (dx, values) in line.chunks_exact_mut(c).enumerate() {
                    match source(self.numbers, from, (y, x), 3 * dy + dx) {
                        Some(pixel) => values.copy_from_slice(&picture[pixel * c..][..c]),
                        None => values.fill(0.0),
                    }
                }
            }
        }
    }
}
