//! Counter-based noise: a value is a function of its key alone, never of a running generator.

use std::f64::consts::TAU;

use candle_core::{Device, Result, Shape, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// What a draw is for; draws for different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Noise of a training sample.
    Training,
    /// Noise of the fixed evaluation set.
    Evaluation,
    /// Which timestep.
    Timestep,
    /// Which prompt template.
    Template,
    /// Whether to flip.
    Flip,
    /// Initial latents of a picture.
    Latents,
    /// Noise of an ancestral sampler's step.
    Ancestral,
    /// The order in which photos are shown.
    Photo,
    /// What sets the vectors of a subject apart at the start.
    Start,
}

impl Purpose {
    /// Part of every key: a number, once used, keeps its meaning, or old checkpoints and seeds change theirs.
    fn tag(self) -> u64 {
        match self {
            Self::Training => 1,
            Self::Evaluation => 2,
            Self::Timestep => 3,
            Self::Template => 4,
            Self::Flip => 5,
            Self::Latents => 6,
            Self::Ancestral => 7,
            Self::Photo => 8,
            Self::Start => 9,
        }
    }
}

/// Names one draw. Its values are the ChaCha8 stream under the 256-bit key (seed, purpose, step, sample), little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NoiseKey {
    /// Of the subject or the picture.
    pub seed: u64,
    /// What for.
    pub purpose: Purpose,
    /// Which step.
    pub step: u64,
    /// Which sample of the step.
    pub sample: u64,
}

impl NoiseKey {
    /// Standard normal values, f32, in the order of the shape's elements; a longer draw begins with the shorter one's values.
    ///
    /// # Errors
    /// The device refuses the tensor.
    pub fn normal(&self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let (count, mut stream) = (shape.elem_count(), self.stream());
        let mut values = Vec::with_capacity(count + 1);
        while values.len() < count {
            values.extend(box_muller(unit(&mut stream), unit(&mut stream)));
        }
        values.truncate(count);
        Tensor::from_vec(values, shape, device)
    }

    /// A number below `n`, each equally likely: words past the last whole multiple of `n` are drawn again.
    ///
    /// # Panics
    /// If `n` is 0: there is no such number.
    pub fn below(&self, n: u64) -> u64 {
        assert!(n > 0, "no number is below 0");
        let mut stream = self.stream();
        let surplus = (u64::MAX % n + 1) % n;
        loop {
            let word = stream.next_u64();
            if word <= u64::MAX - surplus {
                return word % n;
            }
        }
    }

    fn stream(&self) -> ChaCha8Rng {
        let mut key = [0; 32];
        let words = [self.seed, self.purpose.tag(), self.step, self.sample];
        for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key)
    }
}

/// A number in (0, 1] with 53 random bits.
fn unit(stream: &mut ChaCha8Rng) -> f64 {
    ((stream.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
}

/// Two independent normal values from two uniform ones. In f64, so that the last bit of a platform's `ln` or `cos` is
/// rounded away in f32.
fn box_muller(a: f64, b: f64) -> [f32; 2] {
    let (radius, (sin, cos)) = ((-2.0 * a.ln()).sqrt(), (TAU * b).sin_cos());
    [(radius * cos) as f32, (radius * sin) as f32]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: NoiseKey = NoiseKey { seed: 7, purpose: Purpose::Training, step: 3, sample: 1 };

    fn values(key: NoiseKey, count: usize) -> Vec<f32> {
        key.normal(count, &Device::Cpu).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_value_is_a_function_of_its_key_whatever_was_drawn_before() {
        let first = values(KEY, 9);
        values(NoiseKey { step: 4, ..KEY }, 100);
        KEY.below(10);
        assert_eq!(values(KEY, 9), first);
        assert_eq!(values(KEY, 100)[..9], first);
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let others = [
            NoiseKey { seed: 8, ..KEY },
            NoiseKey { purpose: Purpose::Evaluation, ..KEY },
            NoiseKey { step: 4, ..KEY },
            NoiseKey { sample: 2, ..KEY },
            NoiseKey { step: KEY.sample, sample: KEY.step, ..KEY },
        ];
        for other in others {
            assert_ne!(values(other, 4), values(KEY, 4), "{other:?}");
        }
    }

    #[test]
    fn purposes_have_numbers_of_their_own() {
        use Purpose::*;
        let all = [Training, Evaluation, Timestep, Template, Flip, Latents, Ancestral, Photo, Start];
        let tags: std::collections::BTreeSet<u64> = all.iter().map(|purpose| purpose.tag()).collect();
        assert_eq!(tags.len(), all.len());
    }

    #[test]
    fn normal_values_have_the_moments_of_the_normal_distribution() {
        let count = 200_000;
        let values = values(KEY, count);
        let moment = |power: i32| values.iter().map(|&v| f64::from(v).powi(power)).sum::<f64>() / count as f64;
        assert!(moment(1).abs() < 0.01, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.015, "variance {}", moment(2));
        assert!(moment(3).abs() < 0.03, "skew {}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.1, "kurtosis {}", moment(4));
        let neighbours = values.windows(2).map(|w| f64::from(w[0] * w[1])).sum::<f64>() / count as f64;
        assert!(neighbours.abs() < 0.01, "correlation {neighbours}");
    }

    #[test]
    fn below_is_even_over_its_range() {
        let mut counts = [0u32; 6];
        for sample in 0..60_000 {
            counts[NoiseKey { sample, ..KEY }.below(6) as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (9_600..10_400).contains(&count)), "{counts:?}");
        assert_eq!(KEY.below(1), 0);
        // 2^63 + 1 rejects nearly half of all words: a biased draw would show here.
        let large = (1 << 63) + 1;
        let low = (0..4_000).filter(|&sample| NoiseKey { sample, ..KEY }.below(large) < large / 2).count();
        assert!((1_850..2_150).contains(&low), "{low}");
    }

    #[test]
    fn the_numbers_never_change() {
        assert_eq!(values(KEY, 3), PINNED_NORMAL);
        assert_eq!(KEY.below(1_000_000_007), PINNED_BELOW);
    }

    // From the definition above, by an independent ChaCha8 and Box-Muller in tests/golden/noise_key.py.
    const PINNED_NORMAL: [f32; 3] = [0.260_549_87, -0.195_496_34, -1.034_333];
    const PINNED_BELOW: u64 = 751_269_767;
}
