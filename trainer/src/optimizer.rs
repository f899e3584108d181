//! What a step does to the learned rows. A few kilobytes of plain numbers: computed on the CPU in a fixed order, so that
//! every device, and every resumed run, does the same.

mod adamw;
mod direction;

use likeness_proto::Parameterization;

pub use adamw::AdamW;
pub use direction::Direction;

/// The samples in a step that the defaults of the learning rate are measured at.
pub const REFERENCE_BATCH: usize = 8;

/// The learning rate of a step over `batch` samples: `base × √(batch / 8)`.
///
/// Both parameterisations divide the gradient by its own size, so the length of a step does not grow with the batch while
/// the noise in its direction falls with its root; the square root keeps the ratio of the two (arXiv 2205.10287).
#[must_use]
pub fn effective_rate(base: f64, batch: usize) -> f64 {
    base * (batch as f64 / REFERENCE_BATCH as f64).sqrt()
}

/// The learned rows and how they move.
#[derive(Clone, Debug, PartialEq)]
pub enum Optimizer {
    /// On the sphere.
    Direction(Direction),
    /// Free, the norm held.
    AdamW(AdamW),
}

/// An optimiser's numbers, as a checkpoint keeps them. Row-major `(vectors, width)`.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerState {
    /// What is learned: unit directions, or the rows themselves.
    pub values: Vec<f32>,
    /// AdamW's first and second moments.
    pub moments: Option<(Vec<f32>, Vec<f32>)>,
}

impl Optimizer {
    /// Starts at `rows` (row-major, `width` numbers each); `initializer` is the direction that DIRECTION is drawn to, `norm`
    /// the vocabulary's median.
    #[must_use]
    pub fn start(kind: Parameterization, rows: &[f32], initializer: &[f32], norm: f32) -> Self {
        match kind {
            Parameterization::Direction => Self::Direction(Direction::start(rows, initializer, norm)),
            Parameterization::Adamw => Self::AdamW(AdamW::start(rows, initializer.len(), norm)),
        }
    }

    /// The learned rows, row-major.
    #[must_use]
    pub fn rows(&self) -> Vec<f32> {
        match self {
            Self::Direction(direction) => direction.rows(),
            Self::AdamW(adamw) => adamw.rows().to_vec(),
        }
    }

    /// Moves along `gradient` (of the loss with respect to the rows) as the step after `step` steps, at rate `rate`.
    pub fn step(&mut self, step: u32, gradient: &[f32], rate: f64) {
        match self {
            Self::Direction(direction) => direction.step(gradient, rate),
            Self::AdamW(adamw) => adamw.step(step, gradient, rate),
        }
    }

    /// What a checkpoint keeps.
    #[must_use]
    pub fn state(&self) -> OptimizerState {
        match self {
            Self::Direction(direction) => OptimizerState { values: direction.directions().to_vec(), moments: None },
            Self::AdamW(adamw) => OptimizerState { values: adamw.rows().to_vec(), moments: Some(adamw.moments()) },
        }
    }

    /// Goes on from a checkpoint's numbers; `None` when they are not of this optimiser's shape.
    #[must_use]
    pub fn resume(&self, state: OptimizerState) -> Option<Self> {
        if state.values.len() != self.rows().len() {
            return None;
        }
        match (self, state.moments) {
            (Self::Direction(fresh), None) => Some(Self::Direction(fresh.resume(state.values))),
            (Self::AdamW(fresh), Some((first, second)))
                if first.len() == state.values.len() && second.len() == first.len() =>
            {
                Some(Self::AdamW(fresh.resume(state.values, first, second)))
            }
            (Self::Direction(_), Some(_)) | (Self::AdamW(_), _) => None,
        }
    }
}

/// Euclidean length, summed in f64.
fn length(row: &[f32]) -> f64 {
    row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// Inner product, summed in f64.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// `row` times `factor`, in place.
fn scale(row: &mut [f32], factor: f64) {
    for x in row {
        *x = (f64::from(*x) * factor) as f32;
    }
}

#[cfg(test)]
mod tests;
