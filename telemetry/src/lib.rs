//! What every process tells of itself while it works: numbers, and what is done for whom.
//!
//! This is the API alone. Where numbers and spans go is decided where a process is put together; without that, all of it does
//! nothing and costs next to nothing.

pub mod metrics;
pub mod rpc;
pub mod trace;
