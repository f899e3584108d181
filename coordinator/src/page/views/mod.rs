//! What pages look like. Templates escape whatever they are given: nothing here marks a text as safe.

mod course;
mod curve;
mod fleet;
mod jobs;
mod layout;
mod subjects;
mod words;

pub(super) use course::{Seen, course, job};
pub(super) use fleet::{fleet, tenants, work};
pub(super) use jobs::{job_events, jobs};
pub(super) use layout::{Frame, Section, oops, sign_in};
pub(super) use subjects::{subject, subjects};
