//! Which samples are whose: a pure choice, from what steps and sums were measured to take.

use std::ops::Range;

use crate::Curve;

/// How a pack's samples are given to the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Every subject's samples are split over all ranks: a sum over the ranks makes each step.
    Split,
    /// Every subject is one rank's, which goes on with it by itself.
    Spread,
}

/// One subject's part in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) samples: usize,
    /// See [`Lesson::turn`](crate::Lesson::turn).
    pub(super) turn: usize,
}

/// What there is to choose by.
#[derive(Clone, Debug)]
pub(super) struct Costs {
    /// Of a rank's step, by its samples.
    pub(super) curve: Option<Curve>,
    /// Seconds of an announcement and a sum.
    pub(super) exchange: f64,
}

impl Placement {
    /// The samples of the subject at `place` that are `rank`'s. A split depends on nothing but the subject: in whichever company it is
    /// learned, its sums are made of the same parts in the same order.
    pub(super) fn range(self, Load { samples, turn }: Load, place: usize, rank: usize, size: usize) -> Range<usize> {
        match self {
            Self::Split => part(samples, (rank + turn) % size, size),
            Self::Spread if place % size == rank => 0..samples,
            Self::Spread => 0..0,
        }
    }

    /// The most samples that any rank has in a step.
    fn deepest(self, subjects: &[Load], size: usize) -> usize {
        let samples = |rank| {
            let own = subjects.iter().enumerate().map(|(place, load)| self.range(*load, place, rank, size).len());
            own.sum()
        };
        (0..size).map(samples).max().unwrap_or(0)
    }
}

/// Where `subjects` take least time on `size` ranks, and why. Without a difference nobody waits for others.
pub(super) fn choose(subjects: &[Load], size: usize, Costs { curve, exchange }: &Costs) -> (Placement, String) {
    let (split, spread) = (Placement::Split.deepest(subjects, size), Placement::Spread.deepest(subjects, size));
    let Some(curve) = curve else {
        let placement = if subjects.len() < size { Placement::Split } else { Placement::Spread };
        return (placement, format!("not measured, {} subjects on {size} ranks", subjects.len()));
    };
    let (split_takes, spread_takes) = (curve.seconds(split) + exchange, curve.seconds(spread));
    let placement = if split_takes < spread_takes { Placement::Split } else { Placement::Spread };
    let why = format!(
        "a step of {split} samples a rank and a sum takes {split_takes:.4} s, one of {spread} by themselves {spread_takes:.4} s"
    );
    (placement, why)
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
    use crate::Point;
    use proptest::prelude::*;

    fn subjects(count: usize, samples: usize) -> Vec<Load> {
        (0..count).map(|turn| Load { samples, turn }).collect()
    }

    /// A step costs `own` and `each` for every sample, a sum `exchange`.
    fn chosen(subjects: &[Load], size: usize, (own, each, exchange): (f64, f64, f64)) -> Placement {
        let points = [1, 2, 4, 8, 16].map(|samples| Point { samples, seconds: own + each * samples as f64 });
        let (placement, why) = choose(subjects, size, &Costs { curve: Curve::new(points.to_vec()), exchange });
        assert!(why.contains("a step of") && why.contains("by themselves"), "{why}");
        placement
    }

    #[test]
    fn five_samples_on_three_ranks() {
        assert_eq!([0, 1, 2].map(|place| part(5, place, 3)), [0..2, 2..4, 4..5]);
        assert_eq!([0, 1, 2].map(|place| part(1, place, 3)), [0..1, 1..1, 1..1]);
    }

    #[test]
    fn a_subject_alone_is_split_where_that_is_worth_a_sum() {
        let alone = subjects(1, 8);
        assert_eq!(chosen(&alone, 4, (0.0, 0.1, 0.001)), Placement::Split);
        assert_eq!(chosen(&alone, 4, (0.0, 0.1, 10.0)), Placement::Spread, "the sum takes longer than the step");
        assert_eq!(chosen(&alone, 4, (5.0, 0.0, 0.001)), Placement::Spread, "fewer samples take as long");
    }

    #[test]
    fn subjects_that_come_out_even_are_spread() {
        assert_eq!(chosen(&subjects(4, 8), 4, (0.01, 0.1, 0.001)), Placement::Spread);
        assert_eq!(chosen(&subjects(8, 8), 4, (0.01, 0.1, 0.001)), Placement::Spread);
        assert_eq!(chosen(&subjects(5, 8), 4, (0.01, 0.1, 0.001)), Placement::Split, "one rank would have two of five");
        assert_eq!(chosen(&subjects(5, 8), 4, (0.01, 0.1, 1.0)), Placement::Spread);
    }

    #[test]
    fn what_was_not_measured_is_counted() {
        let unmeasured = Costs { curve: None, exchange: 0.0 };
        assert_eq!(choose(&subjects(3, 8), 4, &unmeasured).0, Placement::Split);
        let (placement, why) = choose(&subjects(4, 8), 4, &unmeasured);
        assert_eq!((placement, why.as_str()), (Placement::Spread, "not measured, 4 subjects on 4 ranks"));
    }

    proptest! {
        #[test]
        fn parts_are_all_there_is_and_differ_by_one_at_most(count in 0usize..200, parts in 1usize..20) {
            let all: Vec<_> = (0..parts).map(|place| part(count, place, parts)).collect();
            prop_assert_eq!(all.iter().cloned().flatten().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
            let lengths = || all.iter().map(ExactSizeIterator::len);
            prop_assert!(lengths().max() <= lengths().min().map(|least| least + 1));
        }

        #[test]
        fn every_sample_is_one_ranks(
            samples in prop::collection::vec((1usize..20, 0usize..300), 1..12), size in 1usize..9, spread: bool,
        ) {
            let placement = if spread { Placement::Spread } else { Placement::Split };
            for (place, (samples, turn)) in samples.into_iter().enumerate() {
                let range = |rank| placement.range(Load { samples, turn }, place, rank, size);
                let mut all: Vec<usize> = (0..size).flat_map(range).collect();
                all.sort_unstable();
                prop_assert_eq!(all, (0..samples).collect::<Vec<_>>());
            }
        }
    }
}
