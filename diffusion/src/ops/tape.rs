//! The gradients of frozen networks: a tape of ops that hangs in candle's graph as a single op.
//!
//! candle's own backward pass adds every gradient to a tensor of zeros first, and both that sum and any other element-wise
//! op of 65,536 values or more runs on threads of its own that wait in a spin loop. Here a first gradient is moved, and sums
//! are made on the threads that do everything else.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Storage, Tensor, bail};

use super::composed::{Op1, Op2, Reads};
use super::glue::Sum;

/// A contiguous tensor within a frozen network, with its place on the tape if a gradient flows through it.
#[derive(Clone)]
pub(crate) struct Value {
    tensor: Tensor,
    place: Option<Place>,
}

#[derive(Clone)]
struct Place {
    tape: Tape,
    index: usize,
}

/// Steps in the order of the forward pass; the result of step i is value i.
#[derive(Clone, Default)]
struct Tape(Arc<Mutex<Vec<Step>>>);

enum Step {
    /// An input of the network, by its number.
    Input(usize),
    One {
        op: Box<dyn Op1>,
        input: Tensor,
        result: Option<Tensor>,
        from: usize,
    },
    Two {
        op: Box<dyn Op2>,
        inputs: [Tensor; 2],
        result: Option<Tensor>,
        from: [Option<usize>; 2],
    },
    Reshape {
        to: Shape,
        from: usize,
    },
    /// A part of the network that kept nothing but its inputs.
    Again {
        part: Box<dyn Part>,
        inputs: [Tensor; 2],
        from: [Option<usize>; 2],
    },
}

/// A part of a network, of two values, that runs more than once.
pub(crate) trait Part: Send + Sync {
    fn run(&self, x: &Value, y: &Value) -> Result<Value>;

    /// Called when it has run, and when its way back has.
    fn rest(&self) {}
}

impl Tape {
    fn steps(&self) -> MutexGuard<'_, Vec<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, step: Step, tensor: Tensor) -> Value {
        let mut steps = self.steps();
        steps.push(step);
        Value { tensor, place: Some(Place { tape: self.clone(), index: steps.len() - 1 }) }
    }

    /// Gradients of inputs 0 and 1, from that of value `index`. They are added to what the inputs have `so_far`. What a step has
    /// kept is let go when it has been read, so that there is no second way back.
    fn backward(&self, index: usize, gradient: Tensor, mut so_far: [Option<Tensor>; 2]) -> Result<[Option<Tensor>; 2]> {
        let steps = mem::take(&mut *self.steps());
        if steps.is_empty() {
            bail!(
                "a frozen network keeps what its way back reads until then, and it was walked back already: run it again"
            );
        }
        let mut gradients: Vec<Option<Tensor>> = vec![None; steps.len()];
        for (gradient, step) in gradients.iter_mut().zip(steps.iter()) {
            if let Step::Input(number) = step {
                *gradient = so_far[*number].take();
            }
        }
        add(&mut gradients[index], gradient)?;
        let mut inputs = [None, None];
        for (index, step) in steps.into_iter().enumerate().rev() {
            let Some(gradient) = gradients[index].take() else { continue };
            match step {
                Step::Input(number) => inputs[number] = Some(gradient),
                Step::Reshape { to, from } => add(&mut gradients[from], gradient.reshape(to)?)?,
                Step::One { op, input, result, from } => {
                    add(&mut gradients[from], op.back(&input, result.as_ref(), &gradient)?)?;
                }
                Step::Two { op, inputs: [a, b], result, from } => {
                    add_both(&mut gradients, op.back([&a, &b], result.as_ref(), &gradient)?, from)?;
                }
                Step::Again { part, inputs, from } => {
                    // The part goes on with the sums as they stand, so that they are added up in the order they would be without it.
                    let so_far = from.map(|from| gradients[from?].take());
                    add_both(&mut gradients, again(&*part, &inputs, from, gradient, so_far)?, from)?;
                }
            }
        }
        Ok(inputs)
    }
}

/// Runs a part once more, this time on a tape, and back.
fn again(
    part: &dyn Part,
    inputs: &[Tensor; 2],
    from: [Option<usize>; 2],
    gradient: Tensor,
    so_far: [Option<Tensor>; 2],
) -> Result<[Option<Tensor>; 2]> {
    let tape = Tape::default();
    let [x, y] = std::array::from_fn(|number| match from[number] {
        Some(_) => tape.record(Step::Input(number), inputs[number].clone()),
        None => Value { tensor: inputs[number].clone(), place: None },
    });
    let gradients = match part.run(&x, &y)?.place {
        Some(Place { index, .. }) => tape.backward(index, gradient, so_far),
        None => Ok(so_far),
    };
    part.rest();
    gradients
}

fn add_both(sums: &mut [Option<Tensor>], gradients: [Option<Tensor>; 2], from: [Option<usize>; 2]) -> Result<()> {
    for (gradient, from) in gradients.into_iter().zip(from) {
        if let (Some(gradient), Some(from)) = (gradient, from) {
            add(&mut sums[from], gradient)?;
        }
    }
    Ok(())
}

fn add(sum: &mut Option<Tensor>, gradient: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(so_far) => Sum.run(&so_far, &gradient)?,
        None => gradient,
    });
    Ok(())
}

impl Value {
    /// A constant.
    pub(crate) fn constant(tensor: &Tensor) -> Result<Self> {
        Ok(Self { tensor: tensor.detach().contiguous()?, place: None })
    }

    /// Its values.
    pub(crate) fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Sizes of a picture `(b, h, w, c)`.
    pub(crate) fn dims4(&self) -> Result<(usize, usize, usize, usize)> {
        self.tensor.dims4()
    }

    /// The same values under another shape.
    pub(crate) fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        let tensor = self.tensor.reshape(shape.into())?;
        Ok(match &self.place {
            Some(Place { tape, index }) => {
                tape.record(Step::Reshape { to: self.tensor.shape().clone(), from: *index }, tensor)
            }
            None => Self { tensor, place: None },
        })
    }

    /// The result of a frozen op. Its `bwd` is given what it [reads](Op1::reads) and no more: in the place of an input a tensor
    /// of its shape without memory, in that of the result the gradient.
    pub(crate) fn apply(&self, op: impl Op1 + 'static) -> Result<Self> {
        let tensor = op.run(&self.tensor)?;
        Ok(match &self.place {
            Some(Place { tape, index }) => {
                let (input, result) = (kept(&self.tensor, op.reads())?, result(&tensor, op.reads()));
                tape.record(Step::One { op: Box::new(op), input, result, from: *index }, tensor)
            }
            None => Self { tensor, place: None },
        })
    }

    /// The result of a frozen op of two values, as [`Self::apply`].
    pub(crate) fn apply2(&self, other: &Self, op: impl Op2 + 'static) -> Result<Self> {
        let tensor = op.run(&self.tensor, &other.tensor)?;
        let from = [self.index(), other.index()];
        Ok(match self.place.as_ref().or(other.place.as_ref()) {
            Some(Place { tape, .. }) => {
                let inputs = [kept(&self.tensor, op.reads())?, kept(&other.tensor, op.reads())?];
                let result = result(&tensor, op.reads());
                tape.record(Step::Two { op: Box::new(op), inputs, result, from }, tensor)
            }
            None => Self { tensor, place: None },
        })
    }

    /// The result of a part of the network, of which the tape keeps the inputs alone: the backward pass runs it again, to the
    /// same bits (gradient checkpointing, Chen et al. 2016, arXiv 1604.06174).
    pub(crate) fn checkpointed(&self, other: &Self, part: impl Part + 'static) -> Result<Self> {
        let untracked = |value: &Self| Self { tensor: value.tensor.clone(), place: None };
        let tensor = part.run(&untracked(self), &untracked(other))?.tensor;
        part.rest();
        let from = [self.index(), other.index()];
        Ok(match self.place.as_ref().or(other.place.as_ref()) {
            Some(Place { tape, .. }) => {
                let inputs = [self.tensor.clone(), other.tensor.clone()];
                tape.record(Step::Again { part: Box::new(part), inputs, from }, tensor)
            }
            None => Self { tensor, place: None },
        })
    }

    fn index(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.index)
    }
}

/// An op's input, as its way back is given it.
fn kept(input: &Tensor, reads: Reads) -> Result<Tensor> {
    match reads {
        Reads::Nothing => Tensor::zeros((), input.dtype(), input.device())?.broadcast_as(input.shape()),
        Reads::Input | Reads::Result => Ok(input.clone()),
    }
}

/// Its result.
fn result(result: &Tensor, reads: Reads) -> Option<Tensor> {
    (reads == Reads::Result).then(|| result.clone())
}

/// Runs a frozen network of one input on rayon's threads; see [`frozen2`].
pub(crate) fn frozen(x: &Tensor, network: impl Fn(&Value) -> Result<Value> + Sync) -> Result<Tensor> {
    frozen2(x, &x.detach(), |x, _| network(x))
}

/// Runs a frozen network on rayon's threads. The result has a gradient with respect to those inputs that candle tracks;
/// if it tracks neither, nothing is kept.
pub(crate) fn frozen2(
    a: &Tensor,
    b: &Tensor,
    network: impl Fn(&Value, &Value) -> Result<Value> + Sync,
) -> Result<Tensor> {
    let tape = Tape::default();
    let input = |number: usize, tensor: &Tensor| -> Result<Value> {
        let value = Value::constant(tensor)?;
        Ok(if tensor.track_op() { tape.record(Step::Input(number), value.tensor) } else { value })
    };
    let inputs = [input(0, a)?, input(1, b)?];
    let Value { tensor, place } = rayon::scope(|_| network(&inputs[0], &inputs[1]))?;
    match place {
        Some(Place { tape, index }) => a.contiguous()?.apply_op2(&b.contiguous()?, Network { tensor, tape, index }),
        None => Ok(tensor),
    }
}

/// The whole network as one op of candle's graph.
struct Network {
    /// Its result, already computed.
    tensor: Tensor,
    tape: Tape,
    /// The result's place on the tape.
    index: usize,
}

impl Network {
    /// The result, alone in its storage.
    fn whole(&self) -> Result<Tensor> {
        let whole = &self.tensor;
        if whole.is_contiguous() && whole.layout().start_offset() == 0 { Ok(whole.clone()) } else { whole.copy() }
    }
}

impl CustomOp2 for Network {
    fn name(&self) -> &'static str {
        "frozen-network"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let whole = self.whole()?;
        let (storage, layout) = whole.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => bail!("a network on the CPU has a result elsewhere"),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        let whole = self.whole()?;
        let (storage, layout) = whole.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => bail!("a network on a GPU has a result elsewhere"),
        }
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.detach().contiguous()?;
        let [a, b] = rayon::scope(|_| self.tape.backward(self.index, gradient, [None, None]))?;
        Ok((a, b))
    }
}

#[cfg(test)]
mod tests {
    use super::super::activation::Activation;
    use super::super::glue::join as beside;
    use super::super::testing::{agree, noise};
    use super::super::to_vec;
    use super::*;
    use candle_core::Var;

    impl<F: Fn(&Value, &Value) -> Result<Value> + Send + Sync> Part for F {
        fn run(&self, x: &Value, y: &Value) -> Result<Value> {
            self(x, y)
        }
    }

    fn run(a: &Tensor, b: &Tensor) -> Result<Tensor> {
        frozen2(a, b, |a, b| {
            let twice = a.apply2(a, Sum)?; // both arguments are the same value
            let mixed = beside(&twice, b)?.reshape((7, 3))?;
            mixed.apply2(&mixed, Sum)
        })
    }

    fn plain(a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Tensor::cat(&[(a * 2.0)?, b.clone()], 1)?.reshape((7, 3))? * 2.0
    }

    #[test]
    fn gradients_of_values_used_more_than_once_are_summed() {
        let (a, b) = (noise(1, &[3, 5]), noise(2, &[3, 2]));
        agree(&[a, b], |args| run(&args[0], &args[1]), |args| plain(&args[0], &args[1]));
    }

    #[test]
    fn a_constant_input_gets_no_gradient_and_constants_alone_leave_no_graph() {
        let (a, b) = (noise(1, &[3, 5]), Var::from_tensor(&noise(2, &[3, 2])).unwrap());
        let gradients = run(&a, &b).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(to_vec(gradients.get(&b).unwrap()).unwrap(), [2.0; 6]);
        assert!(!run(&a, &b.as_detached_tensor()).unwrap().track_op());
    }

    #[test]
    fn a_checkpointed_part_gives_the_same_bits_as_one_that_keeps_everything() {
        let (a, b) = (Var::from_tensor(&noise(1, &[3, 5])).unwrap(), Var::from_tensor(&noise(2, &[3, 2])).unwrap());
        let part = |a: &Value, b: &Value| beside(&Activation::Silu.forward(a)?, &Activation::Gelu.forward(b)?);
        let gradients = |checkpointed: bool| {
            let out = frozen2(&a, &b, |a, b| match checkpointed {
                true => a.checkpointed(b, part),
                false => part(a, b),
            });
            let sum = (out.unwrap() * noise(3, &[3, 7])).unwrap().sum_all().unwrap().backward().unwrap();
            [&a, &b].map(|input| to_vec(sum.get(input).unwrap()).unwrap())
        };
        assert!(gradients(true) == gradients(false));
        let constants = frozen2(&a.as_detached_tensor(), &b.as_detached_tensor(), |a, b| a.checkpointed(b, part));
        assert!(!constants.unwrap().track_op());
    }

    #[test]
    fn what_a_graph_has_kept_is_gone_when_it_has_been_walked_back() {
        let (a, b) = (Var::from_tensor(&noise(1, &[3, 5])).unwrap(), noise(2, &[3, 2]));
        let sum = run(&a, &b).unwrap().sum_all().unwrap();
        assert!(sum.backward().is_ok());
        assert!(sum.backward().unwrap_err().to_string().contains("run it again"));
    }
}
