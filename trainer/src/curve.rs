//! What a training step costs by the samples in it, measured on the path that training takes.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use likeness_diffusion::{BaseModel, NoiseKey, Purpose};
use likeness_proto::{ModelFacts, TrainSpec, v1};

use crate::{Latents, Lesson, Subject, TrainError, lesson::Batch, pass};

/// Samples of a step that is measured, at most; also the largest batch of a job.
pub(crate) const LARGEST: usize = 64;
/// What a sample costs is the same within this.
const SAME: f64 = 0.03;
/// Doublings without gain after which no further one is tried.
const PATIENCE: usize = 2;
/// Steps that take up to so many seconds are taken [`REPEATS`] times, of which the quickest counts: the first of a size also waits
/// for memory that the allocator has to get.
const QUICK: f64 = 1.0;
const REPEATS: usize = 3;

/// A step of `samples` samples took `seconds`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// At least one.
    pub samples: usize,
    /// Above zero.
    pub seconds: f64,
}

/// Seconds of a training step by its samples: at least one point, samples ascending.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve(Vec<Point>);

impl Curve {
    /// From what was measured earlier; none if it is no curve.
    #[must_use]
    pub fn new(points: Vec<Point>) -> Option<Self> {
        let ascending = points.is_sorted_by(|a, b| a.samples < b.samples);
        let sound = points.iter().all(|p| p.samples > 0 && p.seconds.is_finite() && p.seconds > 0.0);
        (ascending && sound && !points.is_empty()).then_some(Self(points))
    }

    /// Its points.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.0
    }

    /// The fewest samples, of those measured up to `most`, at which a sample costs as little as at any of them, to three in
    /// a hundred; one where nothing so small was measured.
    #[must_use]
    pub fn knee(&self, most: usize) -> usize {
        let allowed = || self.0.iter().filter(|point| point.samples <= most);
        let least = allowed().map(Point::each).fold(f64::INFINITY, f64::min);
        allowed().find(|point| point.each() <= least * (1.0 + SAME)).map_or(1, |point| point.samples)
    }

    /// What a step of `samples` takes, on the line between the points next to it; nothing without samples.
    #[must_use]
    pub fn seconds(&self, samples: usize) -> f64 {
        let above = self.0.partition_point(|point| point.samples < samples);
        match (above.checked_sub(1).and_then(|below| self.0.get(below)), self.0.get(above)) {
            (None, Some(_)) if samples == 0 => 0.0,
            (None, Some(first)) => first.seconds,
            (Some(low), Some(high)) => {
                let share = (samples - low.samples) as f64 / (high.samples - low.samples) as f64;
                low.seconds + share * (high.seconds - low.seconds)
            }
            (Some(last), None) => last.each() * samples as f64,
            (None, None) => 0.0,
        }
    }

    /// Takes steps of 1, 2, 4, … samples at the model's native size, `most` at most, until a sample gets no cheaper or the next
    /// batch would not be done within `limit` from the start. A first step, which waits for memory, does not count unless it takes
    /// all the time there is.
    ///
    /// # Errors
    /// A step failed.
    pub fn measure(model: &Arc<BaseModel>, most: NonZeroUsize, limit: Duration) -> Result<Self, TrainError> {
        let lesson = lesson(model)?;
        let (rows, whole) = (lesson.start()?.rows(), usize::MAX);
        let points = climb(most.get().min(LARGEST), limit.as_secs_f64(), |samples| {
            let asked = lesson.ask(Batch::Step(0), rows.clone()).part(0..samples);
            let began = Instant::now();
            pass::gradients(&[asked], whole).swap_remove(0)?; // one subject, one answer
            Ok::<_, TrainError>(began.elapsed().as_secs_f64())
        })?;
        Ok(Self(points))
    }
}

impl Point {
    /// Seconds a sample.
    fn each(&self) -> f64 {
        self.seconds / self.samples as f64
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, Point { samples, seconds }) in self.0.iter().enumerate() {
            write!(f, "{}{samples}: {seconds:.4} s", if place == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// A subject of [`LARGEST`] samples a step: one photo of noise.
fn lesson(model: &Arc<BaseModel>) -> Result<Lesson, TrainError> {
    let facts = ModelFacts { native_size: model.native_size() as u32, factor: model.vae.factor() as u32 };
    let wire = v1::TrainSpec { batch_size: Some(LARGEST as u32), ..v1::TrainSpec::default() };
    let spec = TrainSpec::resolve(wire, &facts).map_err(|refusal| TrainError::Crashed(refusal.to_string()))?;
    let side = model.latent_side();
    let noise = NoiseKey { seed: 0, purpose: Purpose::Start, step: 0, sample: 0 };
    let upright = noise.normal((1, model.vae.channels(), side, side), &model.device)?;
    let latents = Latents { upright, mirrored: None, captions: vec![None], digest: [0; 32] };
    Lesson::new(model, &Subject { latents, init: "person".to_owned(), token: "<subject>".to_owned() }, &spec)
}

/// The points that `step`, which gives the seconds of a step of so many samples, leads to.
fn climb<E>(most: usize, limit: f64, mut step: impl FnMut(usize) -> Result<f64, E>) -> Result<Vec<Point>, E> {
    let cold = step(1)?;
    if 2.0 * cold > limit {
        return Ok(vec![Point { samples: 1, seconds: cold }]);
    }
    let (mut points, mut spent, mut least, mut idle): (Vec<Point>, _, _, _) = (Vec::new(), cold, f64::INFINITY, 0);
    let mut samples = 1;
    while samples <= most && idle < PATIENCE {
        let expected = points.last().map_or(cold, |last| 2.0 * last.seconds);
        if spent + expected > limit {
            break;
        }
        let mut seconds = step(samples)?;
        spent += seconds;
        for _ in 1..REPEATS {
            if seconds > QUICK || spent + seconds > limit {
                break;
            }
            let again = step(samples)?;
            spent += again;
            seconds = seconds.min(again);
        }
        let point = Point { samples, seconds };
        points.push(point);
        idle = if point.each() < least * (1.0 - SAME) { 0 } else { idle + 1 };
        least = least.min(point.each());
        samples *= 2;
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    /// The batches measured where a step takes what `cost` says.
    fn climbed(most: usize, limit: f64, cost: impl Fn(usize) -> f64) -> Curve {
        Curve::new(climb(most, limit, |samples| Ok::<_, Infallible>(cost(samples))).unwrap()).unwrap()
    }

    fn batches(curve: &Curve) -> Vec<usize> {
        curve.points().iter().map(|point| point.samples).collect()
    }

    #[test]
    fn where_a_sample_costs_the_same_in_any_company_one_fills_a_pass() {
        let flat = climbed(64, 10.0, |samples| 0.01 * samples as f64);
        assert_eq!(batches(&flat), [1, 2, 4], "two doublings without gain are enough");
        assert_eq!(flat.knee(64), 1);
    }

    #[test]
    fn where_steps_have_a_price_of_their_own_the_batch_grows_until_it_hardly_matters() {
        let curve = climbed(64, 10.0, |samples| 0.1 + 0.01 * samples as f64);
        assert_eq!(batches(&curve), [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(curve.knee(64), 64);
        assert_eq!(curve.knee(20), 16, "only what is allowed counts");
    }

    #[test]
    fn a_dear_model_is_measured_no_longer_than_the_limit() {
        assert_eq!(batches(&climbed(64, 10.0, |_| 9.0)), [1]);
        assert_eq!(batches(&climbed(64, 60.0, |samples| 17.0 * samples as f64)), [1]);
        assert_eq!(batches(&climbed(64, 20.0, |samples| 2.0 * samples as f64)), [1, 2, 4]);
    }

    #[test]
    fn what_is_no_curve_is_refused() {
        let point = |samples, seconds| Point { samples, seconds };
        for bad in [
            vec![],
            vec![point(0, 1.0)],
            vec![point(1, f64::NAN)],
            vec![point(1, 0.0)],
            vec![point(2, 1.0), point(1, 1.0)],
            vec![point(1, 1.0), point(1, 1.0)],
        ] {
            assert_eq!(Curve::new(bad), None);
        }
    }

    proptest! {
        #[test]
        fn the_knee_was_measured_is_allowed_and_costs_a_sample_next_to_nothing_more_than_the_best(
            seconds in prop::collection::vec(0.001f64..10.0, 1..8), most in 1usize..200,
        ) {
            let points: Vec<_> = (0u32..).zip(seconds).map(|(i, seconds)| Point { samples: 1usize << i, seconds }).collect();
            let knee = Curve::new(points.clone()).unwrap().knee(most);
            let chosen = points.iter().find(|point| point.samples == knee).unwrap();
            prop_assert!(knee <= most);
            for other in points.iter().filter(|point| point.samples <= most) {
                prop_assert!(chosen.each() <= other.each() * (1.0 + SAME));
            }
        }

        #[test]
        fn climbing_keeps_to_its_limits(most in 1usize..100, limit in 0.0f64..20.0, own in 0.0f64..2.0, each in 0.001f64..2.0) {
            let mut spent = 0.0;
            let points = climb(most, limit, |samples| {
                let seconds = own + each * samples as f64;
                spent += seconds;
                Ok::<_, Infallible>(seconds)
            }).unwrap();
            prop_assert!(points.iter().all(|point| point.samples <= most));
            prop_assert!(spent <= limit.max(own + each) + 1e-9, "twice the samples take at most twice the time");
            prop_assert!(Curve::new(points).is_some());
        }
    }
}
