//! Calls that all ranks of a group make together: every one gives its part, and all get the outcome.
//!
//! All ranks make the same calls in the same order. Sums are made in the order of the ranks, so that they are the same bits every
//! time. A rank that dies, leaves or does not come in time ends the group: every other gets [`CollectiveError::PeerLost`], at once
//! where it can be known and at the deadline otherwise, and so does every later call. Nobody hangs.
//!
//! A communicator belongs to one thread, which is why calls take `&mut self`: one is made in it, or moved to it, and never shared.

#[cfg(test)]
mod conformance;
mod grpc;
mod hub;
mod local;
#[cfg(feature = "nccl")]
mod nccl;

use std::fmt;
use std::time::Duration;

use likeness_diffusion::Device;

pub use grpc::{Admission, Assembly, Certificates, JoinError, Remote, Terms, serve};
pub use local::{Local, local};
#[cfg(feature = "nccl")]
pub use nccl::{Nccl, new_id};

/// What sums are made by on this device: ranks that do not agree on it cannot be one group.
#[must_use]
pub fn sums_by(device: &Device) -> &'static str {
    if cfg!(feature = "nccl") && device.is_cuda() { "nccl" } else { "rank 0" }
}

/// The quickest way of `end`'s ranks to their sums where each computes on its own `device`: NCCL between GPUs, where it was built in.
///
/// # Errors
/// See [`CollectiveError`].
pub fn on_device(
    end: Box<dyn Collective>,
    device: &Device,
    limit: Duration,
) -> Result<Box<dyn Collective>, CollectiveError> {
    #[cfg(feature = "nccl")]
    if device.is_cuda() && end.size() > 1 {
        return Ok(Box::new(Nccl::new(end, device, limit)?));
    }
    let _ = (device, limit);
    Ok(end)
}

/// A rank's end of its group. Rank 0 is who tells and who gathers.
pub trait Collective: Send {
    /// Which rank this is, from 0.
    fn rank(&self) -> usize;

    /// Ranks in the group.
    fn size(&self) -> usize;

    /// Puts the sum over all ranks into `values`; they are of one length everywhere.
    ///
    /// # Errors
    /// See [`CollectiveError`].
    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// Puts what rank 0 has in `bytes` there on every rank.
    ///
    /// # Errors
    /// See [`CollectiveError`].
    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<(), CollectiveError>;

    /// Brings everybody's bytes to rank 0, in the order of the ranks; the others get nothing.
    ///
    /// # Errors
    /// See [`CollectiveError`].
    fn gather(&mut self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, CollectiveError>;

    /// Waits for everybody.
    ///
    /// # Errors
    /// See [`CollectiveError`].
    fn barrier(&mut self) -> Result<(), CollectiveError>;
}

/// Why a call gave nothing. The group has ended with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// Ranks are gone or late.
    #[error("rank {rank} waited in {operation} for {}: {why}", named(lost))]
    PeerLost {
        /// Who waited.
        rank: usize,
        /// In which call.
        operation: Operation,
        /// For whom.
        lost: Vec<usize>,
        /// What is known of them.
        why: String,
    },
    /// Ranks made different calls: a bug, or different versions.
    #[error("rank {rank} gets nothing from {operation}: {why}")]
    Mismatch {
        /// Who tells.
        rank: usize,
        /// What it called.
        operation: Operation,
        /// Names both calls and who made them.
        why: String,
    },
}

/// A call, as errors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`Collective::all_reduce_sum`].
    Sum {
        /// Numbers of each rank.
        length: usize,
    },
    /// [`Collective::broadcast`].
    Broadcast,
    /// [`Collective::gather`].
    Gather,
    /// [`Collective::barrier`].
    Barrier,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sum { length } => write!(f, "an all-reduce of {length} numbers"),
            Self::Broadcast => f.write_str("a broadcast"),
            Self::Gather => f.write_str("a gather"),
            Self::Barrier => f.write_str("a barrier"),
        }
    }
}

/// "rank 2", "ranks 1, 3".
fn named(ranks: &[usize]) -> String {
    let list = ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    if ranks.len() == 1 { format!("rank {list}") } else { format!("ranks {list}") }
}
