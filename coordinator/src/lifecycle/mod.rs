//! What may happen to tasks, subjects and jobs: pure functions and state machines. Time is an argument; nothing here
//! reads a clock, a database or a socket. Engines of the store load a [`Course`], apply an event and save what its
//! effects name.

mod course;
mod plan;
mod share;
mod state;
mod task;

#[cfg(test)]
mod tests;

pub(crate) use course::{Course, Effect};
pub(crate) use plan::{Planned, Source, plan, preview, small_photos};
#[cfg(test)]
pub(crate) use share::price;
pub(crate) use share::{Contender, Deal, UNIT, in_order};
pub(crate) use state::{JobState, SubjectState};
pub(crate) use task::{Event, Lease, Refused, Report, Task, TaskState};
