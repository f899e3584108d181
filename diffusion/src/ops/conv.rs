//! Frozen 3×3 convolutions, stride 1 or 2, over `(b, h, w, c)`.

mod back;

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::composed::{ConvTensors, Op1, Op2, Place, Reads};
use super::fresh::{copied, zeros};
use super::gemm::{FEW_ROWS, Matrix, Right, Write, pieces, product};
use super::kernel::LANES;
use super::panels::Panels;
use super::patches::{Patches, Sides};
use super::simd::vectorised;
use super::tape::Value;
use super::winograd::{Direction, Filter, Onto, Pictures, Tile};
use super::{placed, to_vec, values};
use crate::stored::Source;
use back::InputGradient;

/// The smaller sides of a picture from which F(2×2) and F(4×4) are quicker than the direct way: below, too few tiles share the
/// transform of the weights. Never the number of pictures: a picture must not depend on its company.
const TWO_FROM: usize = 8;
const FOUR_FROM: usize = 12;

/// How the filter moves over a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stride {
    /// Step 1, one pixel of zeros around: the size stays.
    One,
    /// Step 2, one pixel of zeros around.
    Two,
    /// Step 2, one pixel of zeros right and below only (diffusers' `downsample_padding` 0).
    TwoPadEnd,
}

impl Stride {
    /// (step, zeros before, zeros before and after).
    fn numbers(self) -> (usize, usize, usize) {
        match self {
            Self::One => (1, 1, 2),
            Self::Two => (2, 1, 2),
            Self::TwoPadEnd => (2, 0, 1),
        }
    }

    fn output(self, side: usize) -> usize {
        let (step, _, padding) = self.numbers();
        (side + padding).saturating_sub(3) / step + 1
    }
}

/// How 3×3 convolutions are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// By Winograd's minimal filtering where that is quicker: off by up to 2e-5 of a result of size one.
    #[default]
    Fast,
    /// As a plain sum of products everywhere.
    Exact,
}

/// A frozen 3×3 convolution.
#[derive(Clone, Debug)]
pub(crate) struct Conv3x3(Arc<Weights>);

#[derive(Debug)]
struct Weights {
    /// `(9 · inputs, outputs)`, taps row by row.
    taps: Panels,
    bias: Vec<f32>,
    inputs: usize,
    outputs: usize,
    stride: Stride,
    arithmetic: Arithmetic,
    /// Where there are no kernels; the taps are empty then.
    tensors: Option<ConvTensors>,
}

impl Weights {
    /// How pictures of these sides are convolved; none: directly.
    fn tile(&self, sides: Sides) -> Option<Tile> {
        let whole = self.inputs.is_multiple_of(LANES) && self.outputs.is_multiple_of(LANES);
        if self.stride != Stride::One || self.arithmetic == Arithmetic::Exact || !whole {
            return None;
        }
        match sides.height.min(sides.width) {
            FOUR_FROM.. => Some(Tile::Four),
            TWO_FROM.. => Some(Tile::Two),
            _ => None,
        }
    }

    fn filter(&self) -> Filter<'_> {
        Filter { taps: &self.taps, inputs: self.inputs, outputs: self.outputs }
    }
}

impl Conv3x3 {
    /// From `weight` `(outputs, inputs, 3, 3)` as checkpoints have it, and `bias` `(outputs)`.
    ///
    /// # Errors
    /// The weight cannot be read.
    pub(crate) fn new(
        weight: &(impl Source + ?Sized),
        bias: Vec<f32>,
        (inputs, outputs): (usize, usize),
        stride: Stride,
        arithmetic: Arithmetic,
    ) -> std::io::Result<Self> {
        let taps = Panels::taps(weight, 9, inputs, outputs)?;
        Ok(Self(Arc::new(Weights { taps, bias, inputs, outputs, stride, arithmetic, tensors: None })))
    }

    /// As [`Self::new`], from tensors at a place without kernels, where candle chooses the arithmetic.
    pub(crate) fn at(
        place: &Place,
        weight: Vec<f32>,
        bias: Vec<f32>,
        (inputs, outputs): (usize, usize),
        stride: Stride,
    ) -> Result<Self> {
        let weight = place.tensor(weight, &[outputs, inputs, 3, 3])?;
        let bias = place.tensor(bias, &[outputs])?;
        let (taps, tensors) = (Panels::default(), Some(ConvTensors { weight, bias, turned: OnceLock::new() }));
        let (bias, arithmetic) = (Vec::new(), Arithmetic::Exact);
        Ok(Self(Arc::new(Weights { taps, bias, inputs, outputs, stride, arithmetic, tensors })))
    }

    /// `(b, h, w, inputs)` to `(b, h', w', outputs)`.
    pub(crate) fn forward(&self, x: &Value) -> Result<Value> {
        x.apply(Plain { conv: self.clone(), shift: None })
    }

    /// As [`Self::forward`], plus `shift` `(b, outputs)` at every pixel. `shift` gets no gradient.
    pub(crate) fn forward_shifted(&self, x: &Value, shift: &Tensor) -> Result<Value> {
        if shift.dims() != [x.tensor().dim(0)?, self.0.outputs] {
            bail!(
                "a shift of shape {:?} does not fit {} outputs of {:?}",
                shift.shape(),
                self.0.outputs,
                x.tensor().shape()
            );
        }
        x.apply(Plain { conv: self.clone(), shift: Some(shift.clone()) })
    }

    /// As [`Self::forward`], plus `residual` `(b, h', w', outputs)`.
    pub(crate) fn forward_add(&self, x: &Value, residual: &Value) -> Result<Value> {
        x.apply2(residual, WithResidual(self.clone()))
    }

    /// Gives back the memory of a mapped filter until it is read again.
    pub(crate) fn release(&self) {
        self.0.taps.release();
    }

    fn shape(&self, input: &Shape) -> Result<(Sides, Shape)> {
        let (b, height, width, c) = input.dims4()?;
        if c != self.0.inputs {
            bail!("a convolution of {} inputs was given {input:?}", self.0.inputs);
        }
        let stride = self.0.stride;
        let shape = Shape::from((b, stride.output(height), stride.output(width), self.0.outputs));
        Ok((Sides { height, width }, shape))
    }

    /// Writes the convolution of `x` to `out`, plus the bias and a `shift` `(b, outputs)` at every pixel; adds them where that `has`
    /// something. `out` is of zeros otherwise.
    fn write_to(
        &self,
        (out, has): (&mut [f32], bool),
        shape: &Shape,
        (x, from): (&[f32], Sides),
        shift: Option<Vec<f32>>,
    ) -> Result<()> {
        let Weights { taps, bias, inputs, outputs, stride, .. } = &*self.0;
        let (count, height, width, _) = shape.dims4()?;
        let mut rows = shift.unwrap_or_else(|| vec![0.0; count * outputs]);
        add_to_each(&mut rows, bias);
        if let Some(tile) = self.0.tile(from) {
            let onto = if has { Onto::RowsAndOld(&rows) } else { Onto::Rows(&rows) };
            let pictures = Pictures { count, height, width };
            self.0.filter().write_to(tile, (out, onto), x, pictures, Direction::Forward);
            return Ok(());
        }
        let pictures = out.par_chunks_mut(height * width * outputs).zip(rows.par_chunks(*outputs));
        pictures.for_each(|(out, row)| add_to_each(out, row));
        let weight = Right::from(taps);
        let patches = Patches { x, channels: *inputs, from, to: Sides { height, width }, numbers: stride.numbers() };
        if count * height * width <= FEW_ROWS {
            let rows = patches.all();
            let rows = Matrix::packed(&rows, count * height * width, 9 * inputs);
            pieces(out, *outputs, 9 * inputs * outputs, |out, (row, column), count| {
                let rows = rows.lines(row, out.len() / count);
                product(out, count, Write::Add, 1.0, rows, weight.columns(column, count));
            });
            return Ok(());
        }
        let pixels = patches.pixels_per_piece();
        out.par_chunks_mut(pixels * outputs).enumerate().for_each_init(Vec::new, |gathered, (piece, out)| {
            let count = out.len() / outputs;
            patches.gather(gathered, piece * pixels, count);
            product(out, *outputs, Write::Add, 1.0, Matrix::packed(gathered, count, 9 * inputs), weight);
        });
        Ok(())
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        self.shape(x.shape())?;
        placed(self.0.tensors.as_ref())?.forward(x, self.0.stride)
    }

    fn composed_back(&self, x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let (_, height, width, _) = x.dims4()?;
        placed(self.0.tensors.as_ref())?.back(gradient, self.0.stride, (height, width))
    }

    fn input_gradient(&self, gradient: &Tensor, input: &Shape) -> Result<Tensor> {
        gradient.apply_op1_no_bwd(&InputGradient { conv: self.clone(), input: input.clone() })
    }
}

vectorised! {
    /// Adds `row` to every row of `out`.
    fn add_to_each(out: &mut [f32], row: &[f32]) {
        for out in out.chunks_exact_mut(row.len()) {
            for (out, value) in out.iter_mut().zip(row) {
                *out += value;
            }
        }
    }
}

struct Plain {
    conv: Conv3x3,
    /// `(b, outputs)`.
    shift: Option<Tensor>,
}

impl CustomOp1 for Plain {
    fn name(&self) -> &'static str {
        "frozen-conv"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (from, shape) = self.conv.shape(layout.shape())?;
        let (mut out, shift) = (zeros(shape.elem_count()), self.shift.as_ref().map(to_vec).transpose()?);
        self.conv.write_to((&mut out, false), &shape, (values(storage, layout)?, from), shift)?;
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        self.conv.input_gradient(gradient, arg.shape()).map(Some)
    }
}

impl Op1 for Plain {
    fn reads(&self) -> Reads {
        Reads::Nothing
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let out = self.conv.composed(x)?;
        match &self.shift {
            Some(shift) => out.broadcast_add(&shift.unsqueeze(1)?.unsqueeze(1)?),
            None => Ok(out),
        }
    }

    fn composed_back(&self, x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        self.conv.composed_back(x, gradient)
    }
}

struct WithResidual(Conv3x3);

impl CustomOp2 for WithResidual {
    fn name(&self) -> &'static str {
        "frozen-conv-residual"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, residual: &CpuStorage, lr: &Layout) -> Result<(CpuStorage, Shape)> {
        let (from, shape) = self.0.shape(lx.shape())?;
        if lr.shape() != &shape {
            bail!("a residual of shape {:?} does not fit a result of shape {shape:?}", lr.shape());
        }
        let mut out = copied(values(residual, lr)?);
        self.0.write_to((&mut out, true), &shape, (values(x, lx)?, from), None)?;
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _r: &Tensor,
        _res: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(self.0.input_gradient(gradient, x.shape())?), Some(gradient.clone())))
    }
}

impl Op2 for WithResidual {
    fn reads(&self) -> Reads {
        Reads::Nothing
    }

    fn composed(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.0.composed(x)? + residual
    }

    fn composed_back(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<[Tensor; 2]> {
        Ok([self.0.composed_back(x, gradient)?, gradient.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{constant, frozen_agree, gap, noise};
    use super::*;

    fn conv(weight: Vec<f32>, bias: Vec<f32>, channels: (usize, usize), stride: Stride) -> Conv3x3 {
        Conv3x3::new(&weight, bias, channels, stride, Arithmetic::Fast).unwrap()
    }

    /// candle's own convolution, over `(b, h, w, c)`.
    fn reference(x: &Tensor, w: &Tensor, b: &Tensor, stride: Stride) -> Result<Tensor> {
        let x = x.permute((0, 3, 1, 2))?.contiguous()?;
        let y = match stride {
            Stride::One => x.conv2d(w, 1, 1, 1, 1)?,
            Stride::Two => x.conv2d(w, 1, 2, 1, 1)?,
            Stride::TwoPadEnd => x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?.conv2d(w, 0, 2, 1, 1)?,
        };
        y.permute((0, 2, 3, 1))?.broadcast_add(b)
    }

    #[test]
    fn a_frozen_convolution_agrees_with_candles() {
        let cases = [(3, 5, 7, 5, 9, Stride::One), (2, 1, 1, 3, 2, Stride::One), (1, 37, 23, 33, 4, Stride::One)];
        let halving = [(2, 8, 6, 5, 3, Stride::Two), (3, 7, 9, 4, 6, Stride::Two), (2, 8, 6, 5, 3, Stride::TwoPadEnd)];
        let tiled = [(3, 8, 8, 16, 32, Stride::One), (2, 9, 11, 32, 16, Stride::One), (2, 33, 38, 48, 16, Stride::One)];
        for (b, h, w, inputs, outputs, stride) in cases.into_iter().chain(halving).chain(tiled) {
            let (weight, bias) = (noise(1, &[outputs, inputs, 3, 3]), noise(2, &[outputs]));
            let frozen = conv(to_vec(&weight).unwrap(), to_vec(&bias).unwrap(), (inputs, outputs), stride);
            let (x, shift) = (noise(3, &[b, h, w, inputs]), noise(4, &[b, outputs]));
            let plain = |a: &[Tensor]| reference(&a[0], &weight, &bias, stride);
            frozen_agree(std::slice::from_ref(&x), |a| frozen.forward(&a[0]), plain);
            frozen_agree(
                std::slice::from_ref(&x),
                |a| frozen.forward_shifted(&a[0], &shift),
                |a| plain(a)?.broadcast_add(&shift.reshape((b, 1, 1, outputs))?),
            );
            let residual = noise(5, frozen.forward(&constant(&x)).unwrap().tensor().dims());
            frozen_agree(&[x, residual], |a| frozen.forward_add(&a[0], &a[1]), |a| plain(a)? + &a[1]);
        }
    }

    #[test]
    fn exact_arithmetic_is_a_sum_of_products_at_every_size() {
        let (weight, x) = (noise(1, &[16, 16, 3, 3]), noise(3, &[1, 32, 32, 16]));
        let by = |arithmetic| {
            let weight = to_vec(&weight).unwrap();
            let frozen = Conv3x3::new(&weight, vec![0.0; 16], (16, 16), Stride::One, arithmetic).unwrap();
            frozen.forward(&constant(&x)).unwrap().tensor().clone()
        };
        let want = reference(&x, &weight, &noise(2, &[16]).zeros_like().unwrap(), Stride::One).unwrap();
        let (exact, fast) = (gap(&by(Arithmetic::Exact), &want), gap(&by(Arithmetic::Fast), &want));
        assert!(exact < 2e-5 && fast > 2.0 * exact && fast < 1e-3, "exact {exact}, fast {fast}");
    }

    #[test]
    fn wrong_channels_are_refused() {
        let frozen = conv(vec![0.0; 9 * 6], vec![0.0; 2], (3, 2), Stride::One);
        assert!(frozen.forward(&constant(&noise(1, &[1, 4, 4, 2]))).is_err());
        assert!(frozen.forward_shifted(&constant(&noise(1, &[1, 4, 4, 3])), &noise(1, &[2, 2])).is_err());
    }
}
