//! AdamW (arXiv 1711.05101) on the rows themselves, as PyTorch computes it, and then the norm: left alone it grows to ten
//! times the vocabulary's and beyond, where the rows drown the rest of the prompt (arXiv 2312.15905). So after every
//! step a row whose norm left the band of ±25 % around the vocabulary's median is rescaled to the band's edge.

use super::{length, scale};

const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;
const WEIGHT_DECAY: f64 = 1e-2;
/// Of the vocabulary's median norm.
const BAND: (f64, f64) = (0.75, 1.25);

/// Rows with their moments.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    /// Row-major `(vectors, width)`.
    rows: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    width: usize,
    /// Lowest and highest norm of a row.
    band: (f64, f64),
}

impl AdamW {
    pub(super) fn start(rows: &[f32], width: usize, norm: f32) -> Self {
        let band = (BAND.0 * f64::from(norm), BAND.1 * f64::from(norm));
        Self::within(rows, width, band)
    }

    pub(super) fn within(rows: &[f32], width: usize, band: (f64, f64)) -> Self {
        let zeros = vec![0.0; rows.len()];
        let mut start = Self { rows: rows.to_vec(), first: zeros.clone(), second: zeros, width, band };
        start.hold_norms();
        start
    }

    pub(super) fn resume(&self, rows: Vec<f32>, first: Vec<f32>, second: Vec<f32>) -> Self {
        Self { rows, first, second, ..*self }
    }

    pub(super) fn rows(&self) -> &[f32] {
        &self.rows
    }

    pub(super) fn moments(&self) -> (Vec<f32>, Vec<f32>) {
        (self.first.clone(), self.second.clone())
    }

    pub(super) fn step(&mut self, step: u32, gradient: &[f32], rate: f64) {
        let time = f64::from(step) + 1.0;
        let (first_bias, second_bias) = (1.0 - BETAS.0.powf(time), 1.0 - BETAS.1.powf(time));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((x, g), (m, v)) in self.rows.iter_mut().zip(gradient).zip(moments) {
            let g = f64::from(*g);
            *m = (BETAS.0 * f64::from(*m) + (1.0 - BETAS.0) * g) as f32;
            *v = (BETAS.1 * f64::from(*v) + (1.0 - BETAS.1) * g * g) as f32;
            let size = (f64::from(*v) / second_bias).sqrt() + EPSILON;
            *x = (f64::from(*x) * (1.0 - rate * WEIGHT_DECAY) - rate / first_bias * f64::from(*m) / size) as f32;
        }
        self.hold_norms();
    }

    fn hold_norms(&mut self) {
        for row in self.rows.chunks_exact_mut(self.width) {
            let norm = length(row);
            let held = norm.clamp(self.band.0, self.band.1);
            if norm > 0.0 && held != norm {
                scale(row, held / norm);
            }
        }
    }
}
