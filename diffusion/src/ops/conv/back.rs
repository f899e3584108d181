//! The way back of a frozen convolution: the gradient of its input.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};
use rayon::prelude::*;

use super::super::fresh::zeros;
use super::super::gemm::{FEW_ROWS, Matrix, Right, Write, pieces, product};
use super::super::patches::{Patches, Sides};
use super::super::values;
use super::super::winograd::{Direction, Onto, Pictures};
use super::{Conv3x3, Stride, Weights};

/// The gradient with respect to an input of some shape.
pub(super) struct InputGradient {
    pub(super) conv: Conv3x3,
    pub(super) input: Shape,
}

impl CustomOp1 for InputGradient {
    fn name(&self) -> &'static str {
        "frozen-conv-gradient"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (from, result) = self.conv.shape(&self.input)?;
        let (count, height, width, _) = result.dims4()?;
        let gradient = values(storage, layout)?;
        let mut out = zeros(self.input.elem_count());
        match (self.conv.0.tile(from), self.conv.0.stride) {
            (Some(tile), _) => {
                let pictures = Pictures { count, height, width };
                let out = (&mut out[..], Onto::Zeros);
                self.conv.0.filter().write_to(tile, out, gradient, pictures, Direction::Backward);
            }
            (None, Stride::One) => self.conv.turned(gradient, from, &mut out),
            (None, Stride::Two | Stride::TwoPadEnd) => {
                self.conv.halved(gradient, from, Sides { height, width }, &mut out);
            }
        }
        Ok((CpuStorage::F32(out), self.input.clone()))
    }
}

impl Conv3x3 {
    /// Stride 1: the convolution of the gradient with the filter turned by 180° and its channels swapped.
    fn turned(&self, gradient: &[f32], sides: Sides, out: &mut [f32]) {
        let Weights { taps: weight, inputs, outputs, .. } = &*self.0;
        let patches = Patches { x: gradient, channels: *outputs, from: sides, to: sides, numbers: (1, 1, 2) };
        let taps = |out: &mut [f32], gathered: &[f32], first: usize, count: usize| {
            for tap in 0..9 {
                let pixels = Matrix::strided(&gathered[tap * outputs..], out.len() / count, *outputs, 9 * outputs);
                let opposite = Right::Turned(weight, ((8 - tap) * inputs, *inputs)).columns(first, count);
                product(out, count, if tap == 0 { Write::Replace } else { Write::Add }, 1.0, pixels, opposite);
            }
        };
        if out.len() / inputs <= FEW_ROWS {
            let gathered = patches.all();
            return pieces(out, *inputs, 9 * inputs * outputs, |out, (row, column), count| {
                taps(out, &gathered[row * 9 * outputs..], column, count);
            });
        }
        let pixels = patches.pixels_per_piece();
        out.par_chunks_mut(pixels * inputs).enumerate().for_each_init(Vec::new, |gathered, (piece, out)| {
            patches.gather(gathered, piece * pixels, out.len() / inputs);
            taps(out, gathered, 0, *inputs);
        });
    }

    /// Stride 2. Pixels of the input whose row is even or odd, and whose column is, lie under the same taps; so each of the four
    /// kinds of pixels is a product by itself.
    fn halved(&self, gradient: &[f32], from: Sides, to: Sides, out: &mut [f32]) {
        let Weights { taps: weight, inputs, outputs, stride, .. } = &*self.0;
        let (_, before, _) = stride.numbers();
        // Where in the result a row or column of the input lies under row or column `tap` of the filter.
        let under = |place: usize, tap: usize, side: usize| {
            let twice = (place + before).checked_sub(tap)?;
            (twice % 2 == 0 && twice / 2 < side).then_some(twice / 2)
        };
        let samples = out.len() / (from.height * from.width * inputs);
        for (odd_row, odd_column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let taps =
                (0..9).filter(|tap| (odd_row + before + tap / 3) % 2 == 0 && (odd_column + before + tap % 3) % 2 == 0);
            let taps: Vec<usize> = taps.collect();
            let (rows, columns) = ((from.height + 1 - odd_row) / 2, (from.width + 1 - odd_column) / 2);
            if rows * columns == 0 {
                continue;
            }
            let width = taps.len() * outputs;
            let mut gathered = zeros(samples * rows * columns * width);
            gathered.par_chunks_exact_mut(width).enumerate().for_each(|(pixel, values)| {
                let (line, column) = (pixel / columns, odd_column + pixel % columns * 2);
                let (sample, row) = (line / rows, odd_row + line % rows * 2);
                for (values, tap) in values.chunks_exact_mut(*outputs).zip(&taps) {
                    if let (Some(y), Some(x)) = (under(row, tap / 3, to.height), under(column, tap % 3, to.width)) {
                        let pixel = (sample * to.height + y) * to.width + x;
                        values.copy_from_slice(&gradient[pixel * outputs..][..*outputs]);
                    }
                }
            });
            let mut own = zeros(samples * rows * columns * inputs);
            pieces(&mut own, *inputs, width * inputs, |own, (row, column), count| {
                for (at, tap) in taps.iter().enumerate() {
                    let pixels = &gathered[row * width + at * outputs..];
                    let pixels = Matrix::strided(pixels, own.len() / count, *outputs, width);
                    let turned = Right::Turned(weight, (tap * inputs, *inputs)).columns(column, count);
                    product(own, count, if at == 0 { Write::Replace } else { Write::Add }, 1.0, pixels, turned);
                }
            });
            let lines = out.par_chunks_exact_mut(from.width * inputs).enumerate();
            let lines = lines.filter(|(line, _)| line % from.height % 2 == odd_row);
            lines.for_each(|(line, out)| {
                let own = &own[(line / from.height * rows + line % from.height / 2) * columns * inputs..];
                let pixels = out.chunks_exact_mut(*inputs).skip(odd_column).step_by(2);
                pixels.zip(own.chunks_exact(*inputs)).for_each(|(out, own)| out.copy_from_slice(own));
            });
        }
    }
}
