//! UniPC of order 2, B₂(h), predicting the clean latents (Zhao et al. 2023, "UniPC: a unified predictor-corrector framework"):
//! each step first corrects the current sample with the new output, then predicts the next.

use candle_core::{Result, Tensor, bail};

use super::{Level, Sampler, leading, linspace, ratio_at, to_f32, trailing};
use crate::schedule::{NoiseSchedule, Prediction, Spacing};

pub(super) struct UniPc {
    prediction: Prediction,
    timesteps: Vec<f32>,
    /// The level of every step, and the clean end.
    levels: Vec<Level>,
    history: Vec<Past>,
}

/// What a step leaves for the next two.
struct Past {
    /// The clean latents that its output implied.
    clean: Tensor,
    /// Its corrected sample, where its prediction started.
    sample: Tensor,
    /// The order of its prediction, which is that of its correction.
    order: usize,
}

/// The step from level `s` to level `t`, in log signal-to-noise ratio λ.
struct Span {
    /// Length h = λ(t) − λ(s).
    h: f64,
    /// e^(−h) − 1.
    phi: f64,
}

impl UniPc {
    pub(super) fn new(schedule: &NoiseSchedule, steps: usize) -> Self {
        // One more point than steps where the spacing includes the end, which is then left out.
        let stride = schedule.train_timesteps() as usize / (steps + 1);
        let timesteps: Vec<f64> = match schedule.spacing.unwrap_or(Spacing::Linspace) {
            Spacing::Leading => leading(schedule, steps + 1, stride)[..steps].to_vec(),
            Spacing::Trailing => trailing(schedule, steps),
            Spacing::Linspace => linspace(schedule, steps + 1)[..steps].iter().map(|t| t.round_ties_even()).collect(),
        };
        let mut levels: Vec<Level> = timesteps.iter().map(|&t| Level::of_ratio(ratio_at(schedule, t))).collect();
        levels.push(Level { alpha: 1.0, sigma: 0.0 });
        Self { prediction: schedule.prediction(), timesteps: to_f32(&timesteps), levels, history: Vec::new() }
    }

    fn lambda(&self, index: usize) -> f64 {
        self.levels[index].alpha.ln() - self.levels[index].sigma.ln()
    }

    fn span(&self, s: usize, t: usize) -> Span {
        let h = self.lambda(t) - self.lambda(s);
        Span { h, phi: (-h).exp_m1() }
    }

    /// Where level `s` lies before the span's start, in units of its length (negative), r of the paper.
    fn before(&self, s: usize, start: usize, span: &Span) -> f64 {
        (self.lambda(s) - self.lambda(start)) / span.h
    }

    /// The first-order step from `s` to `t`, common to predictor and corrector: σₜ/σₛ·sample − αₜ·φ·clean.
    fn first_order(&self, s: usize, t: usize, span: &Span, past: &Past) -> Result<Tensor> {
        let (from, to) = (self.levels[s], self.levels[t]);
        (&past.sample * (to.sigma / from.sigma))? - (&past.clean * (to.alpha * span.phi))?
    }

    /// UniC: the sample at `index`, now that the clean latents there are known.
    fn correct(&self, index: usize, clean: &Tensor) -> Result<Tensor> {
        let (s, last) = (index - 1, &self.history[index - 1]);
        let span = self.span(s, index);
        let new = (clean - &last.clean)?;
        let residue = if last.order == 1 {
            (new * 0.5)?
        } else {
            let r = self.before(s - 1, s, &span);
            let [old_weight, new_weight] = unic_weights(r, &span);
            let old = ((&self.history[s - 1].clean - &last.clean)? / r)?;
            ((old * old_weight)? + (new * new_weight)?)?
        };
        self.first_order(s, index, &span, last)? - (residue * (self.levels[index].alpha * span.phi))?
    }

    /// UniP: the sample at `index + 1`. The last step is of order 1, where the span is infinite and φ = −1.
    fn predict(&self, index: usize) -> Result<Tensor> {
        let last = &self.history[index];
        let span = self.span(index, index + 1);
        let first = self.first_order(index, index + 1, &span, last)?;
        if last.order == 1 {
            return Ok(first);
        }
        let r = self.before(index - 1, index, &span);
        let residue = ((&self.history[index - 1].clean - &last.clean)? * (0.5 / r))?;
        first - (residue * (self.levels[index + 1].alpha * span.phi))?
    }
}

/// ρ of the corrector of order 2: the solution of `[[1, 1], [r, 1]]·ρ = b`.
fn unic_weights(r: f64, span: &Span) -> [f64; 2] {
    let first = span.phi / -span.h - 1.0;
    let second = first / -span.h - 0.5;
    let (b1, b2) = (first / span.phi, 2.0 * second / span.phi);
    let old = (b1 - b2) / (1.0 - r);
    [old, b1 - old]
}

impl Sampler for UniPc {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn step(&mut self, output: &Tensor, index: usize, sample: &Tensor, _noise: Option<&Tensor>) -> Result<Tensor> {
        let steps = self.timesteps.len();
        if index >= steps || index != self.history.len() {
            bail!("unipc is at step {} of {steps}, not at step {index}", self.history.len());
        }
        let clean = self.levels[index].clean(self.prediction, output, sample)?;
        let sample = if index == 0 { sample.clone() } else { self.correct(index, &clean)? };
        let order = 2.min(steps - index).min(index + 1);
        self.history.push(Past { clean, sample, order });
        self.predict(index)
    }
}
