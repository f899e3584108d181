//! Vectors that results are written to. To clear or copy a large one is work for all threads: the others would wait, and pages that are
//! touched for the first time cost more than what is written to them.

use rayon::prelude::*;

/// Values that are written as one.
const ROW: usize = 16;
/// Rows of one piece of work; fewer values are not worth another thread.
const PIECE: usize = 1 << 12;

/// `len` zeros.
pub(super) fn zeros(len: usize) -> Vec<f32> {
    if len < 2 * PIECE * ROW || !len.is_multiple_of(ROW) {
        return vec![0.0; len];
    }
    let rows = rayon::iter::repeat_n([0.0; ROW], len / ROW).with_min_len(PIECE);
    rows.collect::<Vec<_>>().into_flattened()
}

/// The same values.
pub(super) fn copied(values: &[f32]) -> Vec<f32> {
    match values.as_chunks::<ROW>() {
        (rows, []) if rows.len() >= 2 * PIECE => {
            rows.par_iter().with_min_len(PIECE).copied().collect::<Vec<_>>().into_flattened()
        }
        _ => values.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_values_are_cleared_and_copied_alike() {
        for len in [0, 5, 2 * PIECE * ROW - 16, 2 * PIECE * ROW, 3 * PIECE * ROW + 16, 3 * PIECE * ROW + 5] {
            assert!(zeros(len) == vec![0.0; len], "{len} zeros");
            let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
            assert!(copied(&values) == values, "{len} values");
        }
    }
}
