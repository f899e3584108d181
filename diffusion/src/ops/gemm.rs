//! Matrix products over slices.

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

/// `out (+)= scale · lhs · rhs`, on one thread. Rows of `out` lie `stride` values apart.
#[allow(unsafe_code)]
pub(crate) fn product(out: &mut [f32], stride: usize, into: Write, scale: f32, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    assert_eq!(k, rhs.rows, "inner sizes of a product");
    assert!(fits(out.len(), m, n, stride), "a {m}×{n} result, {stride} apart, in {}", out.len());
    let signed = |x: usize| isize::try_from(x).expect("slices are at most isize::MAX long");
    // SAFETY: `out` is borrowed mutably, so it overlaps neither operand. Every element that gemm touches lies at
    // i·row + j·col with i < rows and j < cols; `fits` has checked for all three that the last of them is inside its
    // slice (`Matrix` keeps its fields private and `transposed` exchanges both pairs), and that the result's rows do not
    // overlap one another. f32 has no invalid bit patterns and no destructor.
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
    #[should_panic(expected = "3×2 view")]
    fn a_view_past_the_end_is_refused() {
        Matrix::strided(&[0.0; 9], 3, 2, 4);
    }
}
