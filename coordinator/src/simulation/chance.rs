//! All that is chance in a run, and its diary. One seed gives one run: whatever asks does so in an order that is the same every
//! time, since there is one thread and time is virtual.

use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use likeness_proto::Incarnation;
use uuid::Uuid;

use crate::store::Signal;
use crate::store::memory::{Fate, Fault, Weather};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident),+ $(,)?) => {
        /// What goes wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Kind { $($(#[$doc])* $kind),+ }

        impl Kind {
            pub(super) const ALL: &[Self] = &[$(Self::$kind),+];
        }
    };
}

kinds! {
    CoordinatorKilled,
    TrainerKilled,
    SamplerKilled,
    /// Told to stop, and started again.
    WorkerDrained,
    /// Stopped for longer than a lease, then going on as if nothing had been.
    WorkerFrozen,
    CoordinatorFrozen,
    /// Cut off from all coordinators for a while.
    WorkerCutOff,
    /// The store's clock is five minutes ahead from now on.
    ClockForward,
    /// Five minutes behind.
    ClockBack,
    RequestLost,
    RequestLate,
    /// Delivered again, up to 20 s later.
    RequestTwice,
    AnswerLost,
    AnswerLate,
    ConnectionReset,
    StoreGone,
    /// The transaction is committed, and nobody hears of it.
    StoreUnanswered,
    StoreSlow,
    /// Another coordinator does not hear of a change.
    NoticeLost,
    Bucket500,
    Bucket503,
    BucketSlow,
    BucketFull,
    /// Half of an object comes, then an error.
    BucketTruncated,
    /// The object is written, and nobody hears of it.
    BucketUnanswered,
    WorkFailed,
    /// Goes on after it was told to stop.
    WorkDeaf,
}

/// A fault of a kind happens this often in a run at most.
const MOST: u64 = 3;

pub(super) struct Chance(Mutex<Inner>);

struct Inner {
    state: u64,
    now: Duration,
    is_calm: bool,
    budget: Vec<u32>,
    fired: Vec<u32>,
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Chance {
    /// `keeps`: the diary, line by line, beside its hash.
    pub(super) fn new(seed: u64, keeps: bool) -> Self {
        let chance = Self(Mutex::new(Inner {
            state: seed,
            now: Duration::ZERO,
            is_calm: true,
            budget: Vec::new(),
            fired: vec![0; Kind::ALL.len()],
            hash: 0xcbf2_9ce4_8422_2325,
            lines: keeps.then(Vec::new),
        }));
        let budget = Kind::ALL.iter().map(|_| chance.below(MOST + 1) as u32).collect();
        chance.lock().budget = budget;
        chance
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number below `end`. SplitMix64.
    pub(super) fn below(&self, end: u64) -> u64 {
        let mut inner = self.lock();
        inner.state = inner.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (inner.state ^ (inner.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    pub(super) fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    pub(super) fn one_in(&self, odds: u64) -> bool {
        self.below(odds) == 0
    }

    /// Whether a fault happens now: by chance, as long as its budget lasts.
    pub(super) fn strikes(&self, kind: Kind, odds: u64) -> bool {
        let struck = self.one_in(odds);
        let mut inner = self.lock();
        let at = kind as usize;
        if !struck || inner.is_calm || inner.budget[at] == 0 {
            return false;
        }
        inner.budget[at] -= 1;
        inner.fired[at] += 1;
        drop(inner);
        self.note(format_args!("{kind:?}"));
        true
    }

    /// Lets faults happen, or no more.
    pub(super) fn calm(&self, is_calm: bool) {
        self.lock().is_calm = is_calm;
    }

    pub(super) fn fired(&self) -> Vec<u32> {
        self.lock().fired.clone()
    }

    pub(super) fn now(&self) -> Duration {
        self.lock().now
    }

    pub(super) fn pass(&self, time: Duration) {
        self.lock().now += time;
    }

    /// Writes a line into the diary.
    pub(super) fn note(&self, what: impl Display) {
        let mut inner = self.lock();
        let line = format!("{:>9.3} {what}", inner.now.as_secs_f64());
        for byte in line.bytes() {
            inner.hash = (inner.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3); // FNV-1a
        }
        if let Some(lines) = &mut inner.lines {
            lines.push(line);
        }
    }

    /// The hash of the diary, and the diary if it was kept.
    pub(super) fn diary(&self) -> (u64, Vec<String>) {
        let inner = self.lock();
        (inner.hash, inner.lines.clone().unwrap_or_default())
    }

    pub(super) fn uuid(&self) -> Uuid {
        Uuid::from_u64_pair(self.below(u64::MAX), self.below(u64::MAX))
    }

    pub(super) fn incarnation(&self) -> Incarnation {
        self.uuid().to_string().parse().expect("a UUID")
    }
}

impl Weather for Chance {
    fn fate(&self, what: &'static str) -> Fate {
        let slow = self.strikes(Kind::StoreSlow, 60);
        let wait = if slow { self.millis(1000, 6000) } else { self.millis(1, 15) };
        let fault = if self.strikes(Kind::StoreGone, 60) {
            Some(Fault::Refused)
        } else {
            self.strikes(Kind::StoreUnanswered, 60).then_some(Fault::Unanswered)
        };
        self.note(format_args!("store: {what} {wait:?} {fault:?}"));
        Fate { wait, fault }
    }

    fn carries(&self, _signal: Signal) -> bool {
        !self.strikes(Kind::NoticeLost, 10)
    }
}
