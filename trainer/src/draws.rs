//! What chance decides: a pure function of (seed, step, sample), so that a resumed run, another order or another split
//! over ranks draws the same.

use likeness_diffusion::{NoiseKey, Purpose};

/// The ranges that are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Draws {
    /// The subject's seed.
    pub(crate) seed: u64,
    /// Photos, at least one.
    pub(crate) photos: usize,
    /// Sentences, at least one.
    pub(crate) sentences: usize,
    /// Timesteps of the training schedule.
    pub(crate) timesteps: u32,
    /// Samples in a step.
    pub(crate) batch: usize,
    /// Whether photos may be mirrored.
    pub(crate) flip: bool,
}

/// One sample of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Which photo.
    pub(crate) photo: usize,
    /// Whether it is mirrored.
    pub(crate) mirrored: bool,
    /// How noisy it is made.
    pub(crate) timestep: u32,
    /// Which sentence it is shown with, unless it has a caption.
    pub(crate) sentence: usize,
    /// Its noise.
    pub(crate) noise: NoiseKey,
}

impl Draws {
    /// Sample `sample` (below the batch) of step `step`.
    #[must_use]
    pub(crate) fn sample(&self, step: u32, sample: usize) -> Sample {
        let key = |purpose| NoiseKey { seed: self.seed, purpose, step: u64::from(step), sample: sample as u64 };
        Sample {
            photo: self.photo(step, sample),
            mirrored: self.flip && key(Purpose::Flip).below(2) == 1,
            timestep: key(Purpose::Timestep).below(u64::from(self.timesteps)) as u32,
            sentence: key(Purpose::Template).below(self.sentences as u64) as usize,
            noise: key(Purpose::Training),
        }
    }

    /// Photos come in rounds, each a fresh permutation of all of them: none is seen twice before all were seen once.
    fn photo(&self, step: u32, sample: usize) -> usize {
        let count = u64::from(step) * self.batch as u64 + sample as u64;
        let (round, place) = (count / self.photos as u64, (count % self.photos as u64) as usize);
        let mut order: Vec<usize> = (0..self.photos).collect();
        for last in (1..self.photos).rev() {
            let key = NoiseKey { seed: self.seed, purpose: Purpose::Photo, step: round, sample: last as u64 };
            order.swap(last, key.below(last as u64 + 1) as usize);
        }
        order[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: Draws = Draws { seed: 7, photos: 5, sentences: 10, timesteps: 1000, batch: 3, flip: true };

    fn run(draws: Draws, steps: u32) -> Vec<Sample> {
        (0..steps).flat_map(|step| (0..draws.batch).map(move |sample| draws.sample(step, sample))).collect()
    }

    #[test]
    fn a_draw_does_not_depend_on_what_was_drawn_before() {
        let forward = run(DRAWS, 20);
        let mut backward: Vec<Sample> =
            (0..20).rev().flat_map(|step| (0..3).rev().map(move |sample| DRAWS.sample(step, sample))).collect();
        backward.reverse();
        assert_eq!(forward, backward);
        assert_ne!(forward, run(Draws { seed: 8, ..DRAWS }, 20));
    }

    #[test]
    fn every_photo_is_seen_once_before_any_is_seen_again() {
        let photos: Vec<usize> = run(DRAWS, 25).iter().map(|sample| sample.photo).collect();
        for round in photos.chunks(5) {
            let mut sorted = round.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4], "{round:?}");
        }
        assert!(photos.chunks(5).any(|round| round != &photos[..5]), "rounds differ");
    }

    #[test]
    fn draws_cover_their_ranges() {
        let all = run(DRAWS, 400);
        assert!((0..10).all(|sentence| all.iter().any(|s| s.sentence == sentence)));
        assert!((0..10).all(|tenth| all.iter().any(|s| s.timestep / 100 == tenth)));
        let mirrored = all.iter().filter(|s| s.mirrored).count();
        assert!((500..700).contains(&mirrored), "{mirrored} of 1200");
        assert!(run(Draws { flip: false, ..DRAWS }, 50).iter().all(|s| !s.mirrored));
    }

    #[test]
    fn one_photo_is_enough() {
        assert!(run(Draws { photos: 1, ..DRAWS }, 4).iter().all(|s| s.photo == 0));
    }
}
