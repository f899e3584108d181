//! The life of a node that works for a coordinator: register, lease, renew, report, drain. Knows nothing of what the
//! work is, no tensors and no SQL.
//!
//! A trainer and a sampler are each an implementation of [`Work`]; [`run`] does all the rest.

mod backoff;
mod bucket;
mod client;
mod held;
mod metrics;
mod node;
mod progress;
mod register;
mod renewals;
mod reports;
mod spans;
mod stop;
mod supervise;
mod task;
mod work;

pub use backoff::{Backoff, BackoffError};
pub use bucket::{Bucket, BucketError};
pub use client::Way;
pub use futures::future::BoxFuture;
pub use node::{NodeError, NodeOptions, run};
pub use stop::{Stop, StopSignal};
pub use task::{Task, TaskProbe};
pub use work::{Done, Work, WorkError};
