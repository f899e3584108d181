//! How long to wait before trying again.

use std::time::Duration;

use likeness_proto::Incarnation;

/// Exponential backoff with jitter: attempt `n` waits between half of and the whole of `first · 2ⁿ`, capped at
/// `longest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

/// Waits that are no backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "backoff from {first:?} to {longest:?} is not accepted; the first wait must be above 0 and at most the longest"
)]
pub struct BackoffError {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Waits of about `first`, doubling up to `longest`.
    ///
    /// # Errors
    /// When `first` is 0 or above `longest`.
    pub fn new(first: Duration, longest: Duration) -> Result<Self, BackoffError> {
        if first.is_zero() || first > longest {
            return Err(BackoffError { first, longest });
        }
        Ok(Self { first, longest })
    }

    /// The waits of one series of attempts; each node draws others, so that a fleet does not knock all at once.
    pub(crate) fn waits(self, incarnation: Incarnation) -> Waits {
        let (high, low) = incarnation.as_uuid().as_u64_pair();
        Waits { backoff: self, attempt: 0, state: high ^ low }
    }

    fn ceiling(self, attempt: u32) -> Duration {
        self.first.saturating_mul(2u32.saturating_pow(attempt)).min(self.longest)
    }
}

impl Default for Backoff {
    /// 100 ms, doubling up to 5 s.
    fn default() -> Self {
        Self { first: Duration::from_millis(100), longest: Duration::from_secs(5) }
    }
}

/// A series of waits without an end.
#[derive(Clone, Debug)]
pub(crate) struct Waits {
    backoff: Backoff,
    attempt: u32,
    state: u64,
}

impl Waits {
    /// How long to wait now.
    pub(crate) fn next(&mut self) -> Duration {
        let ceiling = self.backoff.ceiling(self.attempt);
        self.attempt = self.attempt.saturating_add(1);
        let share = (self.random() >> 11) as f64 / (1u64 << 53) as f64; // in [0, 1)
        ceiling.mul_f64(0.5 + share / 2.0)
    }

    /// Begins again with the first wait.
    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014): enough for jitter.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_again() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1)).unwrap();
        let mut waits = backoff.waits(Incarnation::new());
        for ceiling_ms in [100, 200, 400, 800, 1000, 1000] {
            let (wait, ceiling) = (waits.next(), Duration::from_millis(ceiling_ms));
            assert!(ceiling / 2 <= wait && wait <= ceiling, "{wait:?} of {ceiling:?}");
        }
        waits.reset();
        assert!(waits.next() <= Duration::from_millis(100));
    }

    #[test]
    fn nodes_do_not_knock_all_at_once() {
        let backoff = Backoff::default();
        let first = || backoff.waits(Incarnation::new()).next();
        let waits: std::collections::BTreeSet<_> = (0..20).map(|_| first()).collect();
        assert_eq!(waits.len(), 20);
    }

    proptest! {
        #[test]
        fn no_number_of_attempts_overflows(first in 0u64..u64::MAX, longest in 0u64..u64::MAX, attempt: u32) {
            if let Ok(backoff) = Backoff::new(Duration::from_millis(first), Duration::from_millis(longest)) {
                prop_assert!(backoff.ceiling(attempt) <= Duration::from_millis(longest));
            }
        }
    }
}
