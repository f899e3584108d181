//! Matrix products over slices.

use rayon::prelude::*;

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

    /// Its rows from `first` on.
    fn lines(self, first: usize, count: usize) -> Self {
        self.transposed().columns(first, count).transposed()
    }

    /// The same values with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row: self.col, col: self.row, ..self }
    }
}

fn fits(len: usize, rows: usize, cols: usize, stride: usize) -> bool {
    rows == 0 || cols == 0 || (cols <= stride || rows == 1) && (rows - 1) * stride + cols <= len
}

/// What happens to the old contents of a product's destination.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// They are replaced.
    Replace,
    /// The product is added to them.
    Add,
}

/// Terms of a sum that gemm adds up in one go, whatever the number of rows and columns.
const DEPTH: usize = 512;

/// `out (+)= scale · lhs · rhs`, on one thread. Rows of `out` lie `stride` values apart.
///
/// A row of the result has the same bits however many other rows there are, so that a sample of a batch does not depend on
/// the others: left to itself, gemm chooses by the size where it cuts a long sum, and adds a lone row up in another order.
pub(crate) fn product(out: &mut [f32], stride: usize, into: Write, scale: f32, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    assert_eq!(k, rhs.rows, "inner sizes of a product");
    assert!(fits(out.len(), m, n, stride), "a {m}×{n} result, {stride} apart, in {}", out.len());
    if m == 1 {
        // Twice the same row; the copy is thrown away.
        let mut pair = [&out[..n], &out[..n]].concat();
        blocks(&mut pair, n, into, scale, Matrix { rows: 2, row: 0, ..lhs }, rhs);
        out[..n].copy_from_slice(&pair[..n]);
    } else {
        blocks(out, stride, into, scale, lhs, rhs);
    }
}

/// Rows of one piece of work at least. Every piece packs the weights anew, so a long one is cut into few.
const PIECE_ROWS: usize = 256;
/// Pieces that a long one is cut into.
const PIECES: usize = 8;
/// Columns of one piece of work at least, where there are too few rows.
const PIECE_COLUMNS: usize = 64;

/// Computes `out`, rows of `columns` values without gaps, on all threads: pieces of rows where there are enough of them, else pieces
/// of columns, so that each thread reads its own part of the weights. `work` is given a piece, its first row and its first
/// column, and the number of columns in it; it must compute a value the same way whatever the piece.
pub(crate) fn pieces(out: &mut [f32], columns: usize, work: impl Fn(&mut [f32], (usize, usize), usize) + Sync) {
    let rows = out.len() / columns;
    if rows > PIECE_ROWS {
        let height = rows.div_ceil(PIECES).max(PIECE_ROWS);
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

fn blocks(out: &mut [f32], stride: usize, into: Write, scale: f32, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    let depth = lhs.cols;
    block(out, stride, into, scale, lhs.columns(0, depth.min(DEPTH)), rhs.lines(0, depth.min(DEPTH)));
    for first in (DEPTH..depth).step_by(DEPTH) {
        let count = DEPTH.min(depth - first);
        block(out, stride, Write::Add, scale, lhs.columns(first, count), rhs.lines(first, count));
    }
}

#[allow(unsafe_code)]
fn block(out: &mut [f32], stride: usize, into: Write, scale: f32, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    assert_eq!(k, rhs.rows, "inner sizes of a product");
    assert!(fits(out.len(), m, n, stride), "a {m}×{n} result, {stride} apart, in {}", out.len());
    let signed = |x: usize| isize::try_from(x).expect("slices are at most isize::MAX long");
    // SAFETY: `out` is borrowed mutably, so it overlaps neither operand. Every element that gemm touches lies at
    // i·row + j·col with i < rows and j < cols; `fits` has checked for all three that the last of them is inside its
    // slice (`Matrix` keeps its fields private; `transposed` exchanges both pairs, `columns` cuts off as many values as it
    // moves on, a lone row stands twice on itself), and that the result's rows do not overlap one another. f32 has no invalid bit patterns and no destructor.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            signed(stride),
            into == Write::Add,
            lhs.data.as_ptr(),
            signed(lhs.col),
            signed(lhs.row),
            rhs.data.as_ptr(),
            signed(rhs.col),
            signed(rhs.row),
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
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
