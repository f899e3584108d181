//! How many samples go through the network at once, of how many subjects, and what is kept for the way back: a pure choice from
//! what steps cost and what memory there is. None of it shows in what is learned.

use std::num::NonZeroUsize;

use likeness_diffusion::Footprint;
use likeness_proto::TRAIN_DEFAULTS;

use crate::{
    Packing,
    curve::{Curve, LARGEST},
};

/// Subjects at a time, at most, unless more are wished for.
const MOST_SLOTS: usize = 16;

/// What is asked for. The rest is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Subjects at a time.
    pub slots: Option<NonZeroUsize>,
    /// Gradient checkpointing.
    pub checkpointing: Option<bool>,
    /// Bytes that the process may take, for one of its ranks; none: as many as it likes.
    pub memory: Option<u64>,
    /// Ranks that share a step; none: one.
    pub ranks: Option<NonZeroUsize>,
}

/// What the memory allows; see [`Wishes::fit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Whether activations are computed again rather than kept.
    pub checkpointing: bool,
    /// Why, for the log.
    pub checkpointing_why: &'static str,
    /// Samples of native size in a pass, at most.
    pub samples: NonZeroUsize,
    /// Bytes that a sample takes.
    pub bytes_each: u64,
    /// Whether a single sample is too large for the memory.
    pub tight: bool,
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Slots and positions of a pass.
    pub packing: Packing,
    /// Why so many slots, for the log.
    pub slots_why: &'static str,
    /// Samples of native size in a pass.
    pub samples: NonZeroUsize,
    /// Why so many, for the log.
    pub samples_why: &'static str,
}

impl Wishes {
    /// What the memory allows beside the `taken` bytes that there are already. Checkpointing takes more time, so it is
    /// chosen only where without it not even one sample fits.
    #[must_use]
    pub fn fit(&self, taken: u64, needs: &Footprint) -> Fit {
        let room = self.memory.map(|memory| memory.saturating_sub(taken));
        let fits = |bytes: u64| room.is_none_or(|room| bytes <= room);
        let (checkpointing, checkpointing_why) = match self.checkpointing {
            Some(wish) => (wish, "as set"),
            None if room.is_none() => (false, "no memory budget is known"),
            None if fits(needs.sample) => (false, "a sample fits without"),
            None => (true, "without it no sample fits"),
        };
        let bytes_each = if checkpointing { needs.sample_checkpointed } else { needs.sample };
        let fitting = room.map_or(LARGEST as u64, |room| room / bytes_each.max(1)).min(LARGEST as u64) as usize;
        let samples = NonZeroUsize::new(fitting).unwrap_or(NonZeroUsize::MIN);

        let fit = Fit { checkpointing, checkpointing_why, samples, bytes_each, tight: !fits(bytes_each) };
        assert!(fit.tight || fits(bytes_each * samples.get() as u64), "{fit:?} goes beyond {self:?}");
        assert!(self.checkpointing.is_none_or(|wish| wish == checkpointing), "{fit:?} is not {self:?}");
        fit
    }

    /// Chooses a pass within `fit`, and slots to fill it. A sample has `area` latent positions.
    #[must_use]
    pub fn plan(&self, fit: &Fit, area: usize, curve: Option<&Curve>) -> Plan {
        let most = fit.samples.get();
        let (samples, mut samples_why) = match curve {
            Some(curve) => (curve.knee(most), "a sample costs least"),
            None => (Packing::default().positions / area.max(1), "not measured"),
        };
        let samples = NonZeroUsize::new(samples.min(most)).unwrap_or(NonZeroUsize::MIN);
        if 2 * samples.get() > most && most < LARGEST {
            samples_why = "more would not fit into memory";
        }
        let ranks = self.ranks.map_or(1, NonZeroUsize::get);
        let filling = (ranks * samples.get()).div_ceil(TRAIN_DEFAULTS.batch_size as usize).min(ranks * MOST_SLOTS);
        let (slots, slots_why) = match (self.slots, curve) {
            (Some(wish), _) => (wish, "as set"),
            (None, Some(_)) => (NonZeroUsize::new(filling).unwrap_or(NonZeroUsize::MIN), "they fill a pass"),
            (None, None) => (NonZeroUsize::MIN, "not measured"),
        };

        let packing = Packing { slots, positions: samples.get() * area };
        assert!(samples <= fit.samples, "{samples} samples do not fit {fit:?}");
        assert!(self.slots.is_none_or(|wish| wish == slots), "{slots} slots are not {self:?}");
        Plan { packing, slots_why, samples, samples_why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Point;
    use proptest::prelude::*;

    const NEEDS: Footprint = Footprint { sample: 100, sample_checkpointed: 30 };

    fn fit(memory: u64) -> Fit {
        Wishes { memory: Some(memory), ..Wishes::default() }.fit(1500, &NEEDS)
    }

    /// A step costs `own`, and `each` for every sample.
    fn curve(own: f64, each: f64) -> Curve {
        let point = |samples: usize| Point { samples, seconds: own + each * samples as f64 };
        Curve::new([1, 2, 4, 8, 16, 32, 64].map(point).to_vec()).unwrap()
    }

    fn plan(fit: &Fit, curve: Option<&Curve>) -> Plan {
        Wishes::default().plan(fit, 256, curve)
    }

    #[test]
    fn checkpointing_is_chosen_where_nothing_fits_without_it() {
        let chosen = |memory| (fit(memory).checkpointing, fit(memory).samples.get(), fit(memory).tight);
        assert_eq!(chosen(2000), (false, 5, false));
        assert_eq!(chosen(1600), (false, 1, false));
        assert_eq!(chosen(1599), (true, 3, false));
        assert_eq!(chosen(1529), (true, 1, true));
        assert_eq!(chosen(10), (true, 1, true), "there is no less than one sample");
    }

    #[test]
    fn what_is_set_wins_and_no_budget_limits_nothing() {
        let wishes = Wishes { checkpointing: Some(true), ..Wishes::default() };
        assert_eq!((wishes.fit(0, &NEEDS).checkpointing, wishes.fit(0, &NEEDS).samples.get()), (true, LARGEST));
        let wishes = Wishes { checkpointing: Some(false), memory: Some(0), ..Wishes::default() };
        assert!(!wishes.fit(0, &NEEDS).checkpointing);
        let slots = NonZeroUsize::new(40);
        let wishes = Wishes { slots, ..Wishes::default() };
        assert_eq!(wishes.plan(&fit(9000), 256, Some(&curve(0.0, 1.0))).packing.slots.get(), 40);
    }

    #[test]
    fn subjects_share_steps_where_a_larger_step_is_cheaper_and_only_there() {
        let wide = fit(1 << 30);
        let flat = plan(&wide, Some(&curve(0.0, 0.1)));
        assert_eq!((flat.samples.get(), flat.packing.slots.get(), flat.packing.positions), (1, 1, 256));
        let starving = plan(&wide, Some(&curve(1.0, 0.001)));
        assert_eq!((starving.samples.get(), starving.packing.slots.get()), (64, 8));
    }

    #[test]
    fn more_ranks_want_more_subjects() {
        let wishes = Wishes { ranks: NonZeroUsize::new(4), ..Wishes::default() };
        let plan = wishes.plan(&fit(1 << 30), 256, Some(&curve(1.0, 0.001)));
        assert_eq!((plan.samples.get(), plan.packing.slots.get()), (64, 32));
    }

    #[test]
    fn memory_caps_the_pass() {
        let capped = plan(&fit(2100), Some(&curve(1.0, 0.001)));
        assert_eq!((capped.samples.get(), capped.packing.slots.get()), (4, 1), "six would fit, and four were measured");
        assert_eq!(capped.samples_why, "more would not fit into memory");
        let capped = plan(&fit(1900), None);
        assert_eq!((capped.samples.get(), capped.samples_why), (4, "more would not fit into memory"));
    }

    #[test]
    fn what_was_not_measured_stays_as_it_was() {
        let plan = plan(&fit(1 << 30), None);
        assert_eq!(plan.packing, Packing::default());
        assert_eq!((plan.samples_why, plan.slots_why), ("not measured", "not measured"));
    }

    proptest! {
        #[test]
        fn a_plan_keeps_to_memory_and_wishes(
            memory in prop::option::of(0u64..20_000), resident in 0u64..4_000,
            sample in 1u64..2_000, saved in 0u64..2_000, slots in prop::option::of(1usize..200),
            checkpointing in prop::option::of(any::<bool>()), area in 1usize..10_000,
            measured in prop::option::of((0.0f64..1.0, 0.001f64..1.0)),
        ) {
            let needs = Footprint { sample, sample_checkpointed: sample.saturating_sub(saved).max(1) };
            let wishes = Wishes { slots: slots.and_then(NonZeroUsize::new), checkpointing, memory, ranks: None };
            let fit = wishes.fit(resident, &needs);
            let curve = measured.map(|(own, each)| curve(own, each));
            let plan = wishes.plan(&fit, area, curve.as_ref());
            prop_assert_eq!(plan.packing.positions, plan.samples.get() * area);
            let taken = resident + fit.bytes_each * plan.samples.get() as u64;
            prop_assert!(fit.tight && plan.samples.get() == 1 || memory.is_none_or(|memory| taken <= memory));
            match slots {
                Some(wish) => prop_assert_eq!(plan.packing.slots.get(), wish),
                None => prop_assert!(plan.packing.slots.get() <= MOST_SLOTS),
            }
        }
    }
}
