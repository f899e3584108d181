//! Frozen linear layers.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::composed::{LinearTensors, Op1, Op2, Place, Reads};
use super::fresh::{copied, zeros};
use super::gemm::{Matrix, Right, Write, pieces, product};
use super::panels::Panels;
use super::tape::Value;
use super::{placed, values};
use crate::stored::Source;

/// `x Wᵀ + bias`, with `W` and `bias` frozen.
#[derive(Clone, Debug)]
pub(crate) struct Linear(Arc<Weights>);

#[derive(Debug)]
struct Weights {
    /// `(inputs, outputs)`
    weight: Panels,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
    /// Where there are no kernels; the panels are empty then.
    tensors: Option<LinearTensors>,
}

impl Linear {
    /// From `weight` `(outputs, inputs)` as checkpoints have it, and `bias` `(outputs)`.
    ///
    /// # Errors
    /// The weight cannot be read.
    pub(crate) fn new(
        weight: &(impl Source + ?Sized),
        bias: Option<Vec<f32>>,
        inputs: usize,
        outputs: usize,
    ) -> std::io::Result<Self> {
        let weight = Panels::transposed(weight, inputs, outputs)?;
        Ok(Self(Arc::new(Weights { weight, bias, inputs, outputs, tensors: None })))
    }

    /// As [`Self::new`], from tensors at a place without kernels.
    pub(crate) fn at(place: &Place, weight: Vec<f32>, bias: Option<Vec<f32>>, inputs: usize) -> Result<Self> {
        let outputs = weight.len() / inputs;
        let weight = place.tensor(weight, &[outputs, inputs])?;
        let bias = bias.map(|bias| place.tensor(bias, &[outputs])).transpose()?;
        let tensors = Some(LinearTensors { weight, bias });
        Ok(Self(Arc::new(Weights { weight: Panels::default(), bias: None, inputs, outputs, tensors })))
    }

    /// `(…, inputs)` to `(…, outputs)`.
    pub(crate) fn forward(&self, x: &Value) -> Result<Value> {
        x.apply(Plain(self.clone()))
    }

    /// As [`Self::forward`], plus `residual` `(…, outputs)`.
    pub(crate) fn forward_add(&self, x: &Value, residual: &Value) -> Result<Value> {
        x.apply2(residual, WithResidual(self.clone()))
    }

    /// Gives back the memory of a mapped weight until it is read again.
    pub(crate) fn release(&self) {
        self.0.weight.release();
    }

    fn shape(&self, input: &Shape) -> Result<Shape> {
        let mut dims = input.dims().to_vec();
        match dims.last_mut() {
            Some(last) if *last == self.0.inputs => *last = self.0.outputs,
            _ => bail!("a linear layer for {} inputs was given {input:?}", self.0.inputs),
        }
        Ok(Shape::from(dims))
    }

    /// Writes the layer's result for `x` to `out`; adds it where that `has` something.
    fn write_to(&self, out: &mut [f32], has: bool, x: &[f32]) {
        let Weights { weight, bias, inputs, outputs, .. } = &*self.0;
        let weight = Right::from(weight);
        pieces(out, *outputs, inputs * outputs, |out, (row, column), count| {
            let into = match bias {
                Some(bias) if has => {
                    let bias = &bias[column..];
                    out.chunks_exact_mut(count).for_each(|row| row.iter_mut().zip(bias).for_each(|(o, b)| *o += b));
                    Write::Add
                }
                Some(bias) => Write::Over(&bias[column..]),
                None if has => Write::Add,
                None => Write::Replace,
            };
            let rows = Matrix::packed(&x[row * inputs..], out.len() / count, *inputs);
            product(out, count, into, 1.0, rows, weight.columns(column, count));
        });
    }

    fn input_gradient(&self, gradient: &Tensor) -> Result<Tensor> {
        gradient.apply_op1_no_bwd(&InputGradient(self.clone()))
    }
}

struct Plain(Linear);

impl CustomOp1 for Plain {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = self.0.shape(layout.shape())?;
        let mut out = zeros(shape.elem_count());
        self.0.write_to(&mut out, false, values(storage, layout)?);
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(&self, _arg: &Tensor, _res: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        self.0.input_gradient(gradient).map(Some)
    }
}

impl Op1 for Plain {
    fn reads(&self) -> Reads {
        Reads::Nothing
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        self.0.shape(x.shape())?;
        placed(self.0.0.tensors.as_ref())?.forward(x)
    }

    fn composed_back(&self, _: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        placed(self.0.0.tensors.as_ref())?.back(gradient)
    }
}

struct WithResidual(Linear);

impl CustomOp2 for WithResidual {
    fn name(&self) -> &'static str {
        "frozen-linear-residual"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, residual: &CpuStorage, lr: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = self.0.shape(lx.shape())?;
        if lr.shape() != &shape {
            bail!("a residual of shape {:?} does not fit a result of shape {shape:?}", lr.shape());
        }
        let mut out = copied(values(residual, lr)?);
        self.0.write_to(&mut out, true, values(x, lx)?);
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        _r: &Tensor,
        _res: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(self.0.input_gradient(gradient)?), Some(gradient.clone())))
    }
}

impl Op2 for WithResidual {
    fn reads(&self) -> Reads {
        Reads::Nothing
    }

    fn composed(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.0.shape(x.shape())?;
        placed(self.0.0.tensors.as_ref())?.forward(x)? + residual
    }

    fn composed_back(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<[Tensor; 2]> {
        Ok([placed(self.0.0.tensors.as_ref())?.back(gradient)?, gradient.clone()])
    }
}

struct InputGradient(Linear);

impl CustomOp1 for InputGradient {
    fn name(&self) -> &'static str {
        "frozen-linear-gradient"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Weights { weight, inputs, outputs, .. } = &*self.0.0;
        let mut dims = layout.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = *inputs;
        }
        let shape = Shape::from(dims);
        let gradient = values(storage, layout)?;
        let mut out = zeros(shape.elem_count());
        let weight = Right::turned(weight);
        pieces(&mut out, *inputs, inputs * outputs, |out, (row, column), count| {
            let rows = Matrix::packed(&gradient[row * outputs..], out.len() / count, *outputs);
            product(out, count, Write::Replace, 1.0, rows, weight.columns(column, count));
        });
        Ok((CpuStorage::F32(out), shape))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{constant, frozen_agree, noise};
    use super::super::to_vec;
    use super::*;

    fn layer(inputs: usize, outputs: usize, bias: bool) -> (Linear, Tensor, Tensor) {
        let (w, b) = (
            noise(1, &[outputs, inputs]),
            if bias { noise(2, &[outputs]) } else { noise(2, &[outputs]).zeros_like().unwrap() },
        );
        let frozen = Linear::new(&to_vec(&w).unwrap(), bias.then(|| to_vec(&b).unwrap()), inputs, outputs).unwrap();
        (frozen, w, b)
    }

    #[test]
    fn a_frozen_linear_agrees_with_a_matmul() {
        for (rows, inputs, outputs, bias) in [(3, 5, 7, true), (300, 33, 65, false), (1, 40, 1, true)] {
            let (frozen, w, b) = layer(inputs, outputs, bias);
            let plain = |a: &[Tensor]| a[0].broadcast_matmul(&w.t()?)?.broadcast_add(&b);
            frozen_agree(&[noise(3, &[2, rows, inputs])], |a| frozen.forward(&a[0]), plain);
            frozen_agree(
                &[noise(3, &[2, rows, inputs]), noise(4, &[2, rows, outputs])],
                |a| frozen.forward_add(&a[0], &a[1]),
                |a| plain(a)? + &a[1],
            );
        }
    }

    #[test]
    fn wrong_widths_are_refused() {
        let (frozen, ..) = layer(5, 7, true);
        assert!(frozen.forward(&constant(&noise(1, &[2, 6]))).is_err());
        assert!(frozen.forward_add(&constant(&noise(1, &[2, 5])), &constant(&noise(1, &[2, 6]))).is_err());
    }
}
