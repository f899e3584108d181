//! What the fleet is at, counted.

use std::collections::BTreeMap;
use std::time::Duration;

use likeness_proto::TaskKind;

use super::Terms;
use crate::lifecycle::JobState;

/// A worker that has not asked for work for so long, and holds none, is taken for gone.
pub(crate) const WORKER_GONE: Duration = Duration::from_secs(60);
/// How exactly it is known when a worker last asked.
pub(crate) const WORKER_SEEN: Duration = Duration::from_secs(15);

/// What the fleet is at. What there is none of need not be in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Tasks that are ready.
    pub(crate) waiting: BTreeMap<(TaskKind, Class), Waiting>,
    /// Tasks that workers are at.
    pub(crate) leases: BTreeMap<TaskKind, u64>,
    /// Jobs that have not ended.
    pub(crate) jobs: Vec<(JobState, u64)>,
    /// Workers, by the first kind of task that they do.
    pub(crate) workers: BTreeMap<(TaskKind, Presence), u64>,
}

/// Tasks that wait for a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) tasks: u64,
    /// How long the one has been ready that has been so for longest.
    pub(crate) oldest: Duration,
}

impl Waiting {
    /// Together with others.
    pub(crate) fn add(&mut self, tasks: u64, oldest: Duration) {
        (self.tasks, self.oldest) = (self.tasks + tasks, self.oldest.max(oldest));
    }
}

/// A tenant's weight against that which tenants have who were given none, which is the least that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Standard,
    Heavy,
}

impl Class {
    pub(crate) const ALL: [Self; 2] = [Self::Standard, Self::Heavy];

    pub(crate) fn of(weight: u32) -> Self {
        if weight > Terms::default().weight { Self::Heavy } else { Self::Standard }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Heavy => "heavy",
        }
    }
}

/// What a worker is seen to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Presence {
    /// It holds tasks.
    Working,
    /// It has asked for some lately.
    Idle,
}

impl Presence {
    pub(crate) const ALL: [Self; 2] = [Self::Working, Self::Idle];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Idle => "idle",
        }
    }
}
