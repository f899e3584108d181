//! Matrix products over slices.

use std::ops::Range;

use rayon::prelude::*;

use super::kernel::{LANES, ROWS, Strip};
use super::panels::{BLOCK, Panels, pack};
use super::scratch::Scratch;

/// A matrix inside a slice: element (i, j) is `data[i * row + j * col]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row: usize,
    col: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `cols` values, one every `stride` values.
    pub(crate) fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, stride), "a {rows}×{cols} view, {stride} apart, of {}", data.len());
        Self { data, rows, cols, row: stride, col: 1 }
    }

    /// Rows of `cols` values without gaps.
    pub(crate) fn packed(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// `count` of its columns from `first` on.
    pub(crate) fn columns(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.cols, "columns {first} to {} of {}", first + count, self.cols);
        Self { data: &self.data[(first * self.col).min(self.data.len())..], cols: count, ..self }
    }

    /// `(rows, columns)`.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Values from one row to the next, and from one column to the next.
    pub(super) fn strides(&self) -> (usize, usize) {
        (self.row, self.col)
    }

    /// The slice that begins with element (0, 0).
    pub(super) fn data(&self) -> &'a [f32] {
        self.data
    }

    /// A row, where its values lie side by side.
    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        assert!(row < self.rows && self.col == 1, "row {row} of {}", self.rows);
        &self.data[row * self.row..][..self.cols]
    }

    /// Its rows from `first` on.
    pub(super) fn lines(self, first: usize, count: usize) -> Self {
        self.transposed().columns(first, count).transposed()
    }

    /// The same values with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row: self.col, col: self.row, ..self }
    }
}

/// True if `rows` rows of `cols` values, `stride` apart, fit into `len` without overlap.
pub(super) fn fits(len: usize, rows: usize, cols: usize, stride: usize) -> bool {
    rows == 0 || cols == 0 || (cols <= stride || rows == 1) && (rows - 1) * stride + cols <= len
}

/// What happens to the old contents of a product's destination.
#[derive(Clone, Copy)]
pub(crate) enum Write<'a> {
    /// They are replaced.
    Replace,
    /// They are replaced by the product plus this row, in every row.
    Over(&'a [f32]),
    /// The product is added to them.
    Add,
}

/// The right side of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// Values as they lie; they are packed as they are wanted.
    Values(Matrix<'a>),
    /// `columns` of a matrix in panels, a multiple of [`LANES`] first.
    Panels(&'a Panels, (usize, usize)),
    /// The transpose of rows of a matrix in panels: first row, their number.
    Turned(&'a Panels, (usize, usize)),
}

impl<'a> From<Matrix<'a>> for Right<'a> {
    fn from(matrix: Matrix<'a>) -> Self {
        Self::Values(matrix)
    }
}

impl<'a> From<&'a Panels> for Right<'a> {
    fn from(panels: &'a Panels) -> Self {
        Self::Panels(panels, (0, panels.sizes().1))
    }
}

impl<'a> Write<'a> {
    /// What happens from column `first` on.
    pub(super) fn columns(self, first: usize) -> Self {
        match self {
            Self::Over(row) => Self::Over(&row[first..]),
            Self::Replace | Self::Add => self,
        }
    }
}

impl<'a> Right<'a> {
    /// The transpose of `panels`.
    pub(crate) fn turned(panels: &'a Panels) -> Self {
        Self::Turned(panels, (0, panels.sizes().0))
    }

    /// `count` of its columns from `first` on, which is a multiple of [`LANES`].
    pub(crate) fn columns(self, first: usize, count: usize) -> Self {
        assert!(first.is_multiple_of(LANES) && first + count <= self.sizes().1, "columns {first} and {count} more");
        match self {
            Self::Values(matrix) => Self::Values(matrix.columns(first, count)),
            Self::Panels(panels, (start, _)) => Self::Panels(panels, (start + first, count)),
            Self::Turned(panels, (start, _)) => Self::Turned(panels, (start + first, count)),
        }
    }

    fn sizes(&self) -> (usize, usize) {
        match self {
            Self::Values(matrix) => matrix.sizes(),
            Self::Panels(panels, (_, count)) => (panels.sizes().0, *count),
            Self::Turned(panels, (_, count)) => (panels.sizes().1, *count),
        }
    }

    /// True if the kernel can read its panels as they lie.
    fn lies_ready(&self) -> bool {
        matches!(self, Self::Panels(panels, _) if panels.are_single())
    }

    /// Where the next panel begins, unless it is packed first.
    fn next(&self, panel: usize, depth: Range<usize>) -> &[f32] {
        match *self {
            Self::Panels(panels, (first, count)) if (panel + 1) * LANES < count && self.lies_ready() => {
                panels.rows(first / LANES + panel + 1, depth, &mut [])
            }
            _ => &[],
        }
    }

    /// Rows `depth` of panels, `(panels, rows, LANES)`, unless they lie ready.
    fn pack(&self, group: Range<usize>, depth: Range<usize>, scratch: &mut Scratch) {
        if self.lies_ready() {
            return;
        }
        let len = depth.len().next_multiple_of(LANES) * LANES;
        let scratch = scratch.values(group.len() * len);
        for (panel, out) in group.zip(scratch.chunks_exact_mut(len.max(1))) {
            match *self {
                Self::Panels(panels, (first, _)) => {
                    panels.rows(first / LANES + panel, depth.clone(), out);
                }
                Self::Values(matrix) => pack(&mut out[..depth.len() * LANES], matrix, panel, depth.clone()),
                Self::Turned(panels, (first, count)) => {
                    let rows = first + panel * LANES..first + count.min((panel + 1) * LANES);
                    for (i, out) in out.chunks_exact_mut(BLOCK).enumerate() {
                        panels.fetch(depth.start / LANES + i, rows.end..rows.end + LANES);
                        panels.turned(depth.start / LANES + i, rows.clone(), out);
                    }
                }
            }
        }
    }

    /// Rows `depth` of a panel, `(rows, LANES)`; `packed` is the first panel in it and what [`Self::pack`] has written.
    fn panel<'b>(&'b self, panel: usize, depth: Range<usize>, packed: (usize, &'b [f32])) -> &'b [f32] {
        match *self {
            Self::Panels(panels, (first, _)) if self.lies_ready() => panels.rows(first / LANES + panel, depth, &mut []),
            _ => {
                let (first, values) = packed;
                &values[(panel - first) * depth.len().next_multiple_of(LANES) * LANES..][..depth.len() * LANES]
            }
        }
    }
}

/// Terms of a sum, at most, that are added up in registers: a panel of so many rows stays in the first cache.
const DEPTH: usize = 384;
/// Panels that are packed at a time, and rows that are multiplied with them: both stay in the second cache.
const PACKED: usize = 8;
const HEIGHT: usize = 16 * ROWS;

/// `out (+)= scale · lhs · rhs`, on one thread. Rows of `out` lie `stride` values apart.
///
/// A value of the result has the same bits however many other rows and columns there are, so that a sample of a batch does not
/// depend on the others.
pub(crate) fn product<'a>(
    out: &mut [f32],
    stride: usize,
    into: Write<'_>,
    scale: f32,
    lhs: Matrix<'_>,
    rhs: impl Into<Right<'a>>,
) {
    let rhs = rhs.into();
    let ((m, k), (inner, n)) = (lhs.sizes(), rhs.sizes());
    assert_eq!(k, inner, "inner sizes of a product");
    assert!(fits(out.len(), m, n, stride), "a {m}×{n} result, {stride} apart, in {}", out.len());
    let (mut scratch, panels) = (Scratch::take(), n.div_ceil(LANES));
    let length = k.div_ceil(k.div_ceil(DEPTH).max(1)).next_multiple_of(LANES).max(1); // of parts of one length
    for first in (0..k.max(1)).step_by(length) {
        let depth = first..k.min(first + length);
        let into = if first == 0 { into } else { Write::Add };
        for group in (0..panels).step_by(PACKED) {
            let group = group..panels.min(group + PACKED);
            rhs.pack(group.clone(), depth.clone(), &mut scratch);
            for top in (0..m).step_by(HEIGHT) {
                let lhs = lhs.lines(top, HEIGHT.min(m - top)).columns(first, depth.len());
                for at in group.clone() {
                    let panel = rhs.panel(at, depth.clone(), (group.start, &scratch));
                    let next = if top == 0 { rhs.next(at, depth.clone()) } else { &[] };
                    let (out, width) = (&mut out[top * stride + at * LANES..], LANES.min(n - at * LANES));
                    let into = into.columns(at * LANES);
                    let pitch = LANES;
                    Strip { out, stride, width, into, scale, lhs, panel, pitch, next }.run();
                }
            }
        }
    }
}

/// Rows of one piece of work, about: each reads all of the weights, and turns them on the way back.
const PIECE_ROWS: usize = 128;
/// Rows up to which [`pieces`] cuts columns instead.
pub(super) const FEW_ROWS: usize = 2 * PIECE_ROWS;
/// Pieces that rows are cut into at most.
const PIECES: usize = 8;
/// Columns of one piece of work at least, where there are too few rows.
const PIECE_COLUMNS: usize = 64;
/// Weights that stay in a thread's cache, so that it costs nothing if each thread reads them all.
const CACHED: usize = 1 << 17;

/// Computes `out`, rows of `columns` values without gaps, on all threads, from products with so many `weights`: pieces of rows where
/// there are enough of them or weights are few, else pieces of columns, so that each thread reads its own part of the weights. `work`
/// is given a piece, its first row and its first column, and the number of columns in it; it must compute a value the same way
/// whatever the piece.
pub(crate) fn pieces(
    out: &mut [f32],
    columns: usize,
    weights: usize,
    work: impl Fn(&mut [f32], (usize, usize), usize) + Sync,
) {
    let rows = out.len() / columns;
    if rows > FEW_ROWS || weights <= CACHED {
        let count = (rows / PIECE_ROWS).min(PIECES) / 2 * 2; // even, so that two threads end together
        let height = rows.div_ceil(count.max(1)).next_multiple_of(ROWS);
        let pieces = out.par_chunks_mut(height * columns).enumerate();
        return pieces.for_each(|(piece, out)| work(out, (piece * height, 0), columns));
    }
    let width = columns.div_ceil(4).next_multiple_of(16).max(PIECE_COLUMNS);
    let firsts: Vec<usize> = (0..columns).step_by(width).collect();
    let whole = &*out;
    let parts: Vec<Vec<f32>> = firsts
        .par_iter()
        .map(|&first| {
            let count = width.min(columns - first);
            let mut part: Vec<f32> = Vec::with_capacity(rows * count);
            whole.chunks_exact(columns).for_each(|row| part.extend_from_slice(&row[first..first + count]));
            work(&mut part, (0, first), count);
            part
        })
        .collect();
    out.par_chunks_exact_mut(columns).enumerate().for_each(|(row, out)| {
        for (first, part) in firsts.iter().zip(&parts) {
            let count = part.len() / rows;
            out[*first..first + count].copy_from_slice(&part[row * count..][..count]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_honour_strides_scale_and_accumulation() {
        let lhs = [1., 2., 9., 3., 4., 9.]; // 2×2, rows 3 apart
        let rhs = [1., 0., 2., 1., 1., 3.]; // 3×2; transposed and cut: 2×3
        let mut out = vec![1.0; 8]; // 2×3, rows 4 apart, within 8
        let (lhs, rhs) = (Matrix::strided(&lhs, 2, 2, 3), Matrix::packed(&rhs, 3, 2).transposed());
        product(&mut out, 4, Write::Add, 2.0, lhs, rhs);
        assert_eq!(out, [3., 9., 15., 1., 7., 21., 31., 1.]);
        product(&mut out, 4, Write::Replace, 1.0, lhs, rhs);
        assert_eq!(out, [1., 4., 7., 1., 3., 10., 15., 1.]);
    }

    #[test]
    fn a_row_has_the_same_bits_however_many_others_there_are() {
        let values =
            |count: usize| -> Vec<f32> { (0..count).map(|i| ((i * 7919) % 1009) as f32 / 1009. - 0.5).collect() };
        for (k, n) in [(40, 48), (864, 48), (1100, 96), (513, 3)] {
            let (lhs, rhs) = (values(200 * k), values(k * n));
            let rows = |m: usize| {
                let mut out = vec![0.25; m * n];
                let lhs = Matrix::packed(&lhs, m, k);
                product(&mut out, n, Write::Add, 0.7, lhs, Matrix::packed(&rhs, k, n));
                out
            };
            let all = rows(200);
            for m in [1, 2, 7, 59, 64, 65, 150] {
                assert!(rows(m) == all[..m * n], "{m} of 200 rows, {k} terms, {n} columns");
            }
        }
    }

    #[test]
    #[should_panic(expected = "3×2 view")]
    fn a_view_past_the_end_is_refused() {
        Matrix::strided(&[0.0; 9], 3, 2, 4);
    }
}
