//! Which rank measures which samples, and the one sum that makes subjects' means of what all have measured.

use std::ops::Range;

use candle_core::bail;
use tracing::warn;

use crate::{
    collective::{Collective, CollectiveError},
    pass::{self, Ask},
};

/// How a pack's samples are given to the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Every subject's samples are split over all ranks.
    Split,
    /// Every subject is one rank's.
    Spread,
}

/// What is to be known of samples, and who measures which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    /// Gradients too, or losses alone.
    pub(super) gradients: bool,
    pub(super) placement: Placement,
    /// Latent positions of one pass on this rank.
    pub(super) positions: usize,
}

/// Mean loss and gradient of each subject; the gradient is empty where it is not wanted.
pub(super) type Means = Vec<candle_core::Result<(f32, Vec<f32>)>>;

/// Measures the own share of `asked` and adds up over all ranks, losses and gradients of all subjects in one call. What a rank
/// gives of a subject is the sum over its samples divided by the subject's whole batch. A subject that fails anywhere fails alone.
pub(super) fn measure(end: &mut dyn Collective, asked: &[Ask<'_>], task: Task) -> Result<Means, CollectiveError> {
    let (rank, size) = (end.rank(), end.size());
    let ranges = asked.iter().enumerate().map(|(place, ask)| range(task.placement, ask, place, rank, size));
    let shares: Vec<_> = asked.iter().zip(ranges).map(|(ask, range)| ask.part(range)).collect();
    let own: Means = match task.gradients {
        true => pass::gradients(&shares, task.positions),
        false => pass::losses(&shares, task.positions).into_iter().map(|loss| Ok((loss?, Vec::new()))).collect(),
    };

    let mut sums = Vec::new();
    for (ask, own) in asked.iter().zip(&own) {
        match own {
            Ok((loss, gradient)) => sums.extend([0.0, *loss].iter().chain(gradient)),
            Err(error) => {
                warn!(rank, %error, "samples of a subject cannot be measured");
                sums.push(1.0);
                sums.extend(vec![0.0; 1 + numbers(ask, task)]);
            }
        }
    }
    end.all_reduce_sum(&mut sums)?;

    let mut rest = &sums[..];
    let mut take = |length: usize| {
        let (first, others) = rest.split_at(length);
        rest = others;
        first
    };
    let mean = |(ask, own): (&Ask<'_>, candle_core::Result<_>)| {
        let (head, gradient) = (take(2), take(numbers(ask, task)));
        match (own, head[0] > 0.0) {
            (Err(error), _) => Err(error),
            (Ok(_), true) => bail!("its samples cannot be measured on another rank, whose log says why"),
            (Ok(_), false) => Ok((head[1], gradient.to_vec())),
        }
    };
    Ok(asked.iter().zip(own).map(mean).collect())
}

/// Numbers of a subject's gradient.
fn numbers(ask: &Ask<'_>, task: Task) -> usize {
    if task.gradients { ask.rows.len() } else { 0 }
}

/// The samples of the subject at `place` that are `rank`'s. A split depends on nothing but the subject: in whichever company it is
/// learned, its sums are made of the same parts in the same order.
fn range(placement: Placement, ask: &Ask<'_>, place: usize, rank: usize, size: usize) -> Range<usize> {
    let samples = ask.samples.len();
    match placement {
        Placement::Split => part(samples, (rank + ask.lesson.turn()) % size, size),
        Placement::Spread if place % size == rank => 0..samples,
        Placement::Spread => 0..0,
    }
}

/// Part `place` of `count` things in `parts`; parts differ by one at most.
fn part(count: usize, place: usize, parts: usize) -> Range<usize> {
    let bound = |place: usize| place * (count / parts) + place.min(count % parts);
    let range = bound(place)..bound(place + 1);
    assert!(range.len() <= count.div_ceil(parts), "{range:?} is more than its share of {count} in {parts}");
    range
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn five_samples_on_three_ranks() {
        assert_eq!([0, 1, 2].map(|place| part(5, place, 3)), [0..2, 2..4, 4..5]);
        assert_eq!([0, 1, 2].map(|place| part(1, place, 3)), [0..1, 1..1, 1..1]);
    }

    proptest! {
        #[test]
        fn parts_are_all_there_is_and_differ_by_one_at_most(count in 0usize..200, parts in 1usize..20) {
            let all: Vec<_> = (0..parts).map(|place| part(count, place, parts)).collect();
            prop_assert_eq!(all.iter().cloned().flatten().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
            let lengths = || all.iter().map(ExactSizeIterator::len);
            prop_assert!(lengths().max() <= lengths().min().map(|least| least + 1));
        }
    }
}
