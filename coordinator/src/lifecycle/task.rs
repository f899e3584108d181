//! The life of one task.

use likeness_proto::{Fence, Incarnation, TaskId, TaskKind};

use crate::clock::Timestamp;

/// One piece of a job, leased as a whole.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    pub(crate) kind: TaskKind,
    pub(crate) state: TaskState,
    /// Grants so far, which is the number of the last fence.
    pub(crate) grants: u64,
    /// Tries that failed or were lost since the task last got further.
    pub(crate) strikes: u32,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum TaskState {
    /// For another task.
    Waiting,
    /// For a worker.
    Ready,
    Leased(Lease),
    Done,
    /// Another try would not help.
    Failed,
    /// The attempt limit is reached.
    Dead,
    /// Nobody wants it any more.
    Cancelled,
}

impl TaskState {
    /// Whether nothing more will happen.
    #[cfg(test)]
    pub(crate) fn ended(self) -> bool {
        match self {
            Self::Waiting | Self::Ready | Self::Leased(_) => false,
            Self::Done | Self::Failed | Self::Dead | Self::Cancelled => true,
        }
    }
}

/// Who works on a task, and how long it is theirs unless they renew.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lease {
    pub(crate) holder: Incarnation,
    pub(crate) until: Timestamp,
}

/// Who says something about a task, and under which fence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Report {
    pub(crate) holder: Incarnation,
    pub(crate) fence: Fence,
}

/// What happens to a task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Event {
    /// What it waited for is done.
    Unblocked,
    Granted(Lease),
    /// `further`: a checkpoint was committed beyond the last one, so that earlier strikes are forgiven.
    Renewed {
        by: Report,
        until: Timestamp,
        further: bool,
    },
    Finished(Report),
    Failed {
        by: Report,
        retry: bool,
    },
    /// Given back by a draining worker: counts no try.
    Released(Report),
    /// The lease has run out.
    Lapsed,
    /// The process that held the lease is known to be gone.
    Abandoned(Incarnation),
    Cancelled,
}

/// Why an event does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It comes from no current holder of a lease.
    Stale,
    /// The task was cancelled: its worker should stop.
    Cancelled,
    /// The task is in no state for it.
    Untimely,
}

impl Task {
    /// The fence of the last grant; `None` before the first.
    pub(crate) fn fence(&self) -> Option<Fence> {
        Fence::new(self.grants)
    }

    /// The number of the try that goes on, from 1.
    pub(crate) fn attempt(&self) -> u32 {
        self.strikes.saturating_add(1)
    }

    /// Takes one event. Answers whether the task changed; a report repeated under the same fence changes nothing.
    pub(crate) fn apply(&mut self, now: Timestamp, attempts: u32, event: Event) -> Result<bool, Refused> {
        use TaskState::{Cancelled, Dead, Done, Failed, Leased, Ready, Waiting};
        let next = match (self.state, event) {
            (Waiting, Event::Unblocked) => Ready,
            (Ready, Event::Granted(lease)) => {
                self.grants += 1;
                Leased(lease)
            }
            (Leased(lease), Event::Renewed { by, until, further }) if self.is_held(lease, by) => {
                self.strikes = if further { 0 } else { self.strikes };
                Leased(Lease { until, ..lease })
            }
            (Leased(lease), Event::Finished(by)) if self.is_held(lease, by) => Done,
            (Done, Event::Finished(by)) if self.fence() == Some(by.fence) => return Ok(false),
            (Leased(lease), Event::Failed { by, retry }) if self.is_held(lease, by) => {
                if retry {
                    self.strike(attempts)
                } else {
                    Failed
                }
            }
            (Failed | Dead, Event::Failed { by, .. }) if self.fence() == Some(by.fence) => return Ok(false),
            (Leased(lease), Event::Released(by)) if self.is_held(lease, by) => Ready,
            (Leased(lease), Event::Lapsed) if lease.until <= now => self.strike(attempts),
            (Leased(lease), Event::Abandoned(holder)) if lease.holder == holder => self.strike(attempts),
            (Waiting | Ready | Leased(_), Event::Cancelled) => Cancelled,
            (Done | Failed | Dead | Cancelled, Event::Cancelled) => return Ok(false),

            (Cancelled, Event::Renewed { .. } | Event::Finished(_) | Event::Failed { .. } | Event::Released(_)) => {
                return Err(Refused::Cancelled);
            }
            (
                Waiting | Ready | Leased(_) | Done | Failed | Dead,
                Event::Renewed { .. } | Event::Finished(_) | Event::Failed { .. } | Event::Released(_),
            ) => return Err(Refused::Stale),
            (
                Waiting | Ready | Leased(_) | Done | Failed | Dead | Cancelled,
                Event::Unblocked | Event::Granted(_) | Event::Lapsed | Event::Abandoned(_),
            ) => return Err(Refused::Untimely),
        };
        self.state = next;
        Ok(true)
    }

    fn is_held(&self, lease: Lease, by: Report) -> bool {
        lease.holder == by.holder && self.fence() == Some(by.fence)
    }

    /// Counts a try that failed.
    fn strike(&mut self, attempts: u32) -> TaskState {
        self.strikes = self.strikes.saturating_add(1);
        if self.strikes >= attempts { TaskState::Dead } else { TaskState::Ready }
    }
}
