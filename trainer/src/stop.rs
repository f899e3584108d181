//! When to stop: the loss on a fixed evaluation set no longer falls.
//!
//! After DVAR (arXiv 2302.04841): with images, noise and timesteps fixed, the evaluation loss is free of the noise that
//! hides convergence in the training loss. The rule is relative to what a run has gained so far, because how much of the
//! loss is the subject's to gain differs a lot: half of it on a small model, a few per cent on a large one.

use likeness_proto::Evaluation;

/// When a run has converged. The default was measured on four subjects (BENCHMARKS.md).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StopRule {
    /// Steps to look back; at least one evaluation lies in between.
    pub window: u32,
    /// Converged when the window brought less than this share of the run's whole gain.
    pub share: f32,
    /// A run has taken off once it gained this share of its first loss.
    pub takeoff: f32,
    /// Steps without a new best after which a run that never took off is given up.
    pub patience: u32,
}

impl Default for StopRule {
    fn default() -> Self {
        Self { window: 50, share: 0.05, takeoff: 0.005, patience: 200 }
    }
}

impl StopRule {
    /// Whether `evaluations`, in order of their steps and the first before any learning, say that training has converged.
    #[must_use]
    pub fn converged(&self, evaluations: &[Evaluation]) -> bool {
        let (Some(first), Some(last)) = (evaluations.first(), evaluations.last()) else { return false };
        let best = lowest(evaluations);
        let taken_off = first.loss - best > self.takeoff * first.loss;
        let window = if taken_off { self.window } else { self.patience };
        let Some(horizon) = last.step.checked_sub(window).filter(|horizon| *horizon >= first.step) else {
            return false;
        };
        let before = lowest(&evaluations[..evaluations.partition_point(|e| e.step <= horizon)]);
        before - best <= self.share * (first.loss - best)
    }
}

fn lowest(evaluations: &[Evaluation]) -> f32 {
    evaluations.iter().map(|e| e.loss).fold(f32::INFINITY, f32::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_25(losses: &[f32]) -> Vec<Evaluation> {
        (0..).step_by(25).zip(losses).map(|(step, &loss)| Evaluation { step, loss }).collect()
    }

    /// The step at which a run with these losses stops.
    fn stops_at(losses: &[f32]) -> Option<u32> {
        let all = every_25(losses);
        (1..=all.len()).find(|&n| StopRule::default().converged(&all[..n])).map(|n| all[n - 1].step)
    }

    #[test]
    fn a_falling_loss_goes_on() {
        assert_eq!(stops_at(&[0.20, 0.18, 0.165, 0.15, 0.14, 0.13, 0.12]), None);
    }

    #[test]
    fn a_plateau_after_the_fall_stops() {
        assert_eq!(stops_at(&[0.165, 0.12, 0.1135, 0.1126, 0.1125, 0.1124]), Some(100));
    }

    #[test]
    fn a_slow_start_is_waited_out() {
        // facts of AdamW on a free row: nothing for 75 steps, then the fall.
        assert_eq!(stops_at(&[0.235, 0.2349, 0.2348, 0.2348, 0.22, 0.18, 0.17, 0.165, 0.165, 0.165]), Some(225));
    }

    #[test]
    fn a_run_that_never_takes_off_is_given_up_after_the_patience() {
        assert_eq!(stops_at(&[0.2; 20]), Some(200));
        assert_eq!(stops_at(&[0.2, 0.21, 0.22, 0.23, 0.24, 0.25, 0.26, 0.27, 0.28, 0.29]), Some(200));
    }

    #[test]
    fn a_small_gain_counts_as_much_as_a_large_one() {
        let large = [0.4, 0.3, 0.24, 0.215, 0.20, 0.20, 0.20, 0.20];
        let small: Vec<f32> = large.iter().map(|loss| 0.15 + loss / 40.0).collect();
        assert_eq!(stops_at(&large), stops_at(&small));
    }

    #[test]
    fn the_window_is_in_steps_however_often_one_measures() {
        let often: Vec<Evaluation> = (0..12)
            .map(|i| Evaluation { step: 5 * i, loss: if i < 4 { 0.2 - 0.02 * i as f32 } else { 0.14 } })
            .collect();
        assert!(!StopRule::default().converged(&often[..8]), "35 steps are less than the window");
        assert!(!StopRule::default().converged(&[]));
    }
}
