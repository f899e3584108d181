//! Who works on what, for people who look.

use likeness_proto::{Incarnation, JobId, SubjectName, TaskKind, TenantId, v1};

/// Rows of either kind that are read at most.
pub(crate) const ROSTER_LIMIT: u32 = 1000;

/// The workers that are known, and the tasks that are leased.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Roster {
    /// By name; none where only one tenant's tasks were asked for.
    pub(crate) workers: Vec<Hand>,
    /// By tenant, job and subject.
    pub(crate) held: Vec<Held>,
}

/// A worker, as it registered last.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hand {
    pub(crate) name: String,
    pub(crate) incarnation: Incarnation,
    pub(crate) kinds: Vec<TaskKind>,
    /// Names of the models that it holds.
    pub(crate) models: Vec<String>,
    pub(crate) software: String,
}

/// A task that is leased.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    pub(crate) holder: Incarnation,
    pub(crate) tenant: TenantId,
    pub(crate) job: JobId,
    pub(crate) subject: SubjectName,
    pub(crate) kind: TaskKind,
    /// Where training stands, of a train task.
    pub(crate) training: Option<v1::TrainProgress>,
    /// Avatars that are drawn, and that are to be.
    pub(crate) drawn: (u32, u32),
}
