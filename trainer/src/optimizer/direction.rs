//! Directional textual inversion (arXiv 2512.13672): each row is `norm · v` with `v` on the unit sphere. Riemannian
//! gradient descent with a von Mises–Fisher prior towards the initialiser's direction.

use super::{dot, length, scale};

/// Strength of the prior, κ.
const PRIOR: f64 = 1e-4;
/// A tangent part below this share of the gradient is rounding, which must not be blown up to a whole step.
const ROUNDING: f64 = 1e-6;

/// Directions on the unit sphere and their fixed norm.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction {
    /// Row-major `(vectors, width)`; each row has length 1.
    directions: Vec<f32>,
    /// μ, length 1.
    prior: Vec<f32>,
    norm: f32,
}

impl Direction {
    pub(super) fn start(rows: &[f32], initializer: &[f32], norm: f32) -> Self {
        let mut start = Self { directions: rows.to_vec(), prior: initializer.to_vec(), norm };
        normalize(&mut start.prior);
        start.directions.chunks_exact_mut(initializer.len()).for_each(normalize);
        start
    }

    pub(super) fn resume(&self, directions: Vec<f32>) -> Self {
        Self { directions, ..self.clone() }
    }

    pub(super) fn directions(&self) -> &[f32] {
        &self.directions
    }

    pub(super) fn rows(&self) -> Vec<f32> {
        self.directions.iter().map(|v| v * self.norm).collect()
    }

    /// `g = ∂L/∂v − κμ`, without its part along `v`, divided by its own length (β = 0); `v` moves by `rate` against it and
    /// is normalised again. A row without a gradient stays.
    pub(super) fn step(&mut self, gradient: &[f32], rate: f64) {
        let width = self.prior.len();
        for (v, gradient) in self.directions.chunks_exact_mut(width).zip(gradient.chunks_exact(width)) {
            let (tangent, whole) = tangent(v, gradient, f64::from(self.norm), &self.prior);
            let size = length(&tangent);
            if size <= ROUNDING * whole {
                continue;
            }
            for (v, t) in v.iter_mut().zip(&tangent) {
                *v = (f64::from(*v) - rate * f64::from(*t) / size) as f32;
            }
            normalize(v);
        }
    }
}

/// The gradient with respect to `v`, pulled towards the prior: its part in the tangent space at `v`, and its whole length.
fn tangent(v: &[f32], row_gradient: &[f32], norm: f64, prior: &[f32]) -> (Vec<f32>, f64) {
    let mut g: Vec<f32> =
        row_gradient.iter().zip(prior).map(|(g, mu)| (norm * f64::from(*g) - PRIOR * f64::from(*mu)) as f32).collect();
    let (whole, along) = (length(&g), dot(&g, v));
    for (g, v) in g.iter_mut().zip(v) {
        *g = (f64::from(*g) - along * f64::from(*v)) as f32;
    }
    (g, whole)
}

fn normalize(row: &mut [f32]) {
    let size = length(row);
    if size > 0.0 {
        scale(row, 1.0 / size);
    }
}

#[cfg(test)]
pub(super) fn tangent_at(direction: &Direction, gradient: &[f32]) -> Vec<f32> {
    tangent(&direction.directions, gradient, f64::from(direction.norm), &direction.prior).0
}
