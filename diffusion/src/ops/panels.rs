//! Matrices in the order in which products read them: panels of [`LANES`] columns, each row by row.

use std::io;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::gemm::Matrix;
use super::kernel::{LANES, fetch};
use super::scratch::Scratch;
use super::simd::vectorised;
use crate::stored::{Fresh, Held, Source, Values};

/// A square of values, row by row.
pub(super) const BLOCK: usize = LANES * LANES;

/// A matrix cut into panels; the last is filled up with zeros.
#[derive(Clone, Debug)]
pub(crate) struct Panels {
    /// `(panels, rows, LANES)`.
    values: Values,
    rows: usize,
    columns: usize,
}

impl Default for Panels {
    fn default() -> Self {
        Self { values: Vec::new().into(), rows: 0, columns: 0 }
    }
}

impl Panels {
    /// The matrix of `columns` columns whose transpose is `weight`, row by row: a checkpoint's `(outputs, inputs)`.
    ///
    /// # Errors
    /// The weight cannot be read.
    pub(crate) fn transposed(weight: &(impl Source + ?Sized), rows: usize, columns: usize) -> io::Result<Self> {
        Self::filled(weight, rows, columns, |panel, lines| {
            pack(panel, Matrix::packed(lines, lines.len() / rows, rows).transposed(), 0, 0..rows);
        })
    }

    /// The taps of a filter `(outputs, inputs, taps)` as a matrix `(taps · inputs, outputs)`.
    ///
    /// # Errors
    /// The filter cannot be read.
    pub(crate) fn taps(
        filter: &(impl Source + ?Sized),
        taps: usize,
        inputs: usize,
        outputs: usize,
    ) -> io::Result<Self> {
        Self::filled(filter, taps * inputs, outputs, |panel, filters| {
            for first in (0..inputs).step_by(LANES) {
                let count = LANES.min(inputs - first); // so few that their rows of every tap stay in the cache
                for (lane, filter) in filters.chunks_exact(inputs * taps).enumerate() {
                    let filter = &filter[first * taps..][..count * taps];
                    for (input, filter) in filter.chunks_exact(taps).enumerate() {
                        for (tap, value) in filter.iter().enumerate() {
                            panel[(tap * inputs + first + input) * LANES + lane] = *value;
                        }
                    }
                }
            }
        })
    }

    /// A matrix whose columns follow each other in `source`, in its precision. Each thread reads the columns of a panel, which `put`
    /// writes to zeros: beside the panels, the weight never exists as a whole.
    fn filled(
        source: &(impl Source + ?Sized),
        rows: usize,
        columns: usize,
        put: impl Fn(&mut [f32], &[f32]) + Sync,
    ) -> io::Result<Self> {
        assert_eq!(source.len(), rows * columns, "values of {columns} columns");
        let (len, all) = ((rows * LANES).max(1), columns.div_ceil(LANES) * rows * LANES);
        let read = |at: usize, scratch: &mut Scratch| -> io::Result<usize> {
            let count = len.min(rows * columns - at * len);
            source.read(at * len, scratch.values(count))?;
            Ok(count)
        };
        let values = Values::made(source, all, |fresh| match fresh {
            Fresh::Single(panels) => {
                let each = panels.par_chunks_exact_mut(len).enumerate();
                each.try_for_each_init(Scratch::take, |scratch, (at, panel)| {
                    let count = read(at, scratch)?;
                    put(panel, &scratch[..count]);
                    Ok(())
                })
            }
            Fresh::Half(panels) => {
                let each = panels.par_chunks_exact_mut(len).enumerate();
                each.try_for_each_init(
                    || (Scratch::take(), Scratch::take()),
                    |(scratch, wide), (at, panel)| {
                        let (count, wide) = (read(at, scratch)?, wide.values(len));
                        wide.fill(0.0);
                        put(wide, &scratch[..count]);
                        panel.convert_from_f32_slice(wide);
                        Ok(())
                    },
                )
            }
        })?;
        Ok(Self { values, rows, columns })
    }

    /// Takes the values of `matrix`, in the memory of those it had.
    pub(super) fn fill(&mut self, matrix: Matrix<'_>) {
        (self.rows, self.columns) = matrix.sizes();
        let len = self.rows * LANES;
        let mut values = match std::mem::replace(&mut self.values, Vec::new().into()) {
            Values::Single(Held::Own(values)) => values,
            Values::Single(Held::Mapped(_)) | Values::Half(_) => Vec::new(),
        };
        values.resize(self.columns.div_ceil(LANES) * len, 0.0);
        let panels = values.chunks_exact_mut(len.max(1)).enumerate();
        panels.for_each(|(panel, values)| pack(values, matrix, panel, 0..self.rows));
        self.values = values.into();
    }

    /// `(rows, columns)`.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// See [`Values::release`].
    pub(super) fn release(&self) {
        self.values.release();
    }

    /// True if [`Self::rows`] gives them as they lie.
    pub(super) fn are_single(&self) -> bool {
        matches!(self.values, Values::Single(_))
    }

    /// Rows `rows` of a panel, `(rows, LANES)`, widened into `room` unless they [are single](Self::are_single).
    #[inline(always)]
    pub(super) fn rows<'a>(&'a self, panel: usize, rows: Range<usize>, room: &'a mut [f32]) -> &'a [f32] {
        let place = self.place(panel, rows);
        match &self.values {
            Values::Single(values) => &values[place],
            Values::Half(values) => {
                let room = &mut room[..place.len()];
                values[place].convert_to_f32_slice(room);
                room
            }
        }
    }

    #[inline(always)]
    fn place(&self, panel: usize, rows: Range<usize>) -> Range<usize> {
        (panel * self.rows + rows.start) * LANES..(panel * self.rows + rows.end) * LANES
    }

    /// Asks for rows `rows` of a panel, as far as there are any, before they are read.
    #[inline(always)]
    pub(super) fn fetch(&self, panel: usize, rows: Range<usize>) {
        if panel * LANES < self.columns {
            let rows = rows.start.min(self.rows)..rows.end.min(self.rows);
            let place = self.place(panel, rows);
            match &self.values {
                Values::Single(values) => values[place].iter().step_by(LANES).for_each(fetch),
                Values::Half(values) => values[place].iter().step_by(2 * LANES).for_each(fetch),
            }
        }
    }

    /// Rows `rows`, at most [`LANES`], of a panel, as columns: `(LANES, LANES)`, filled up with zeros.
    pub(super) fn turned(&self, panel: usize, rows: Range<usize>, out: &mut [f32]) {
        let (mut room, mut whole) = ([0.0; BLOCK], [0.0; BLOCK]);
        let mut square = self.rows(panel, rows, &mut room);
        if square.len() < BLOCK {
            whole[..square.len()].copy_from_slice(square);
            square = &whole;
        }
        transpose(|row| &square[row * LANES..], out);
    }
}

/// Writes rows `rows` of a panel of `matrix`, `(rows, LANES)`, filled up with zeros.
pub(super) fn pack(out: &mut [f32], matrix: Matrix<'_>, panel: usize, rows: Range<usize>) {
    let (_, columns) = matrix.sizes();
    let ((row, col), first) = (matrix.strides(), panel * LANES);
    let width = LANES.min(columns - first);
    let at = |i: usize, j: usize| &matrix.data()[i * row + j * col..];
    if col == 1 && width == LANES {
        copy(out, at(rows.start, first), row);
    } else if col == 1 {
        for (out, i) in out.chunks_exact_mut(LANES).zip(rows) {
            let (values, beyond) = out.split_at_mut(width);
            values.copy_from_slice(&at(i, first)[..width]);
            beyond.fill(0.0);
        }
    } else if row == 1 && width == LANES && rows.len() >= LANES {
        for i in squares(rows.len()) {
            transpose(|j| at(rows.start + i, first + j), &mut out[i * LANES..][..BLOCK]);
        }
    } else {
        one_by_one(out, rows, width, |i, j| at(i, first + j)[0]);
    }
}

/// Where squares begin that cover `len` rows, at least [`LANES`]; the last may overlap the one before.
fn squares(len: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(LANES).map(move |first| first.min(len - LANES))
}

vectorised! {
    /// Copies [`LANES`] values of every `stride`.
    fn copy(out: &mut [f32], from: &[f32], stride: usize) {
        for (i, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            out.copy_from_slice(&from[i * stride..][..LANES]);
        }
    }
}

/// Writes the transpose of `matrix`, whose rows lie side by side, without gaps.
pub(super) fn transposed(out: &mut [f32], matrix: Matrix<'_>) {
    let (rows, columns) = matrix.sizes();
    if rows < LANES || columns < LANES {
        for i in 0..rows {
            matrix.row(i).iter().enumerate().for_each(|(j, value)| out[j * rows + i] = *value);
        }
        return;
    }
    let mut square = [0.0; BLOCK];
    for top in squares(rows) {
        for left in squares(columns) {
            transpose(|i| &matrix.row(top + i)[left..], &mut square);
            for (j, line) in square.chunks_exact(LANES).enumerate() {
                out[(left + j) * rows + top..][..LANES].copy_from_slice(line);
            }
        }
    }
}

fn one_by_one(out: &mut [f32], rows: Range<usize>, width: usize, value: impl Fn(usize, usize) -> f32) {
    for (out, i) in out.chunks_exact_mut(LANES).zip(rows) {
        for (j, out) in out.iter_mut().enumerate() {
            *out = if j < width { value(i, j) } else { 0.0 };
        }
    }
}

/// Writes the transpose of a square whose row `i` begins `row(i)`.
#[inline(always)]
fn transpose<'a>(row: impl Fn(usize) -> &'a [f32], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        let mut rows = [&[][..]; LANES];
        rows.iter_mut().enumerate().for_each(|(i, line)| *line = &row(i)[..LANES]);
        return simd.vectorize(avx::Transpose { simd, rows, out });
    }
    for i in 0..LANES {
        for (j, value) in row(i)[..LANES].iter().enumerate() {
            out[j * LANES + i] = *value;
        }
    }
}

/// Left to itself, the compiler moves a square value by value.
#[cfg(target_arch = "x86_64")]
mod avx {
    use std::arch::x86_64::__m256;

    use pulp::{NullaryFnOnce, cast, x86::V3};

    use super::LANES;

    const HALF: usize = LANES / 2;

    pub(super) struct Transpose<'a> {
        pub(super) simd: V3,
        pub(super) rows: [&'a [f32]; LANES],
        pub(super) out: &'a mut [f32],
    }

    impl NullaryFnOnce for Transpose<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            for (top, left) in [(0, 0), (0, HALF), (HALF, 0), (HALF, HALF)] {
                let mut quarter = [cast([0f32; HALF]); HALF];
                for (i, vector) in quarter.iter_mut().enumerate() {
                    let line: &[f32; HALF] = self.rows[top + i][left..].first_chunk().expect("a row has two halves");
                    *vector = cast(*line);
                }
                let turned = turned(self.simd, quarter);
                for (j, vector) in turned.into_iter().enumerate() {
                    let out = self.out[(left + j) * LANES + top..].first_chunk_mut().expect("a row has two halves");
                    *out = cast::<__m256, [f32; HALF]>(vector);
                }
            }
        }
    }

    /// Pairs, then fours, then eights of values find together.
    #[inline(always)]
    fn turned(V3 { avx, .. }: V3, r: [__m256; HALF]) -> [__m256; HALF] {
        let (mut pairs, mut fours) = (r, r);
        for i in [0, 2, 4, 6] {
            pairs[i] = avx._mm256_unpacklo_ps(r[i], r[i + 1]);
            pairs[i + 1] = avx._mm256_unpackhi_ps(r[i], r[i + 1]);
        }
        for i in [0, 4] {
            fours[i] = avx._mm256_shuffle_ps::<0x44>(pairs[i], pairs[i + 2]);
            fours[i + 1] = avx._mm256_shuffle_ps::<0xEE>(pairs[i], pairs[i + 2]);
            fours[i + 2] = avx._mm256_shuffle_ps::<0x44>(pairs[i + 1], pairs[i + 3]);
            fours[i + 3] = avx._mm256_shuffle_ps::<0xEE>(pairs[i + 1], pairs[i + 3]);
        }
        let mut eights = r;
        for i in 0..4 {
            eights[i] = avx._mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
            eights[i + 4] = avx._mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
        }
        eights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(len: usize) -> Vec<f32> {
        (0..len).map(|i| i as f32 + 1.0).collect()
    }

    /// Every value of a matrix in panels, and zeros beyond it.
    fn same(panels: &Panels, rows: usize, columns: usize, value: impl Fn(usize, usize) -> f32) {
        assert_eq!(panels.sizes(), (rows, columns));
        for panel in 0..columns.div_ceil(LANES) {
            let mut room = vec![0.0; rows * LANES];
            for (i, line) in panels.rows(panel, 0..rows, &mut room).chunks(LANES).enumerate() {
                for (j, got) in line.iter().enumerate() {
                    let column = panel * LANES + j;
                    assert_eq!(*got, if column < columns { value(i, column) } else { 0.0 }, "({i}, {column})");
                }
            }
        }
    }

    #[test]
    fn panels_hold_a_matrix_whichever_way_it_lies() {
        for (rows, columns) in [(1, 1), (5, 16), (16, 5), (33, 48), (40, 37)] {
            let values = counted(rows * columns);
            let mut panels = Panels::default();
            panels.fill(Matrix::packed(&values, rows, columns));
            same(&panels, rows, columns, |i, j| values[i * columns + j]);
            same(&Panels::transposed(&values, columns, rows).unwrap(), columns, rows, |i, j| values[j * columns + i]);
        }
    }

    #[test]
    fn taps_of_a_filter_are_rows_of_inputs() {
        let (inputs, outputs) = (3, 18);
        let filter = counted(outputs * inputs * 9);
        let value = |row: usize, o: usize| filter[(o * inputs + row % inputs) * 9 + row / inputs];
        same(&Panels::taps(&filter, 9, inputs, outputs).unwrap(), 9 * inputs, outputs, value);
    }

    #[test]
    fn a_transposed_matrix_has_rows_and_columns_exchanged() {
        for (rows, columns) in [(1, 1), (16, 16), (33, 40), (20, 7)] {
            let (values, mut out) = (counted(rows * columns), vec![0.0; rows * columns]);
            transposed(&mut out, Matrix::packed(&values, rows, columns));
            let want = |at: usize| values[at % rows * columns + at / rows];
            assert!(out.iter().enumerate().all(|(at, got)| *got == want(at)), "{rows}×{columns}");
        }
    }

    #[test]
    fn a_turned_block_has_rows_and_columns_exchanged() {
        let values = counted(21 * 32);
        let panels = Panels::transposed(&values, 21, 32).unwrap();
        let mut out = [0.0; BLOCK];
        for rows in [2..18, 18..21] {
            panels.turned(1, rows.clone(), &mut out);
            for (j, line) in out.chunks(LANES).enumerate() {
                for (i, got) in line.iter().enumerate() {
                    assert_eq!(*got, if i < rows.len() { values[(16 + j) * 21 + rows.start + i] } else { 0.0 });
                }
            }
        }
    }
}
