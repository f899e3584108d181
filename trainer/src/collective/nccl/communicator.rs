//! A communicator of NCCL that keeps nobody waiting: a call begins something, and whether it has ended is looked at until a deadline.

// cudarc's own communicator waits inside NCCL, where nothing can cut it short.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use candle_core::cuda_backend::cudarc;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtrMut};
use cudarc::nccl::{result, sys};

use super::{ID, said};

/// Between two looks.
const LOOK: Duration = Duration::from_micros(20);
/// What `NCCL_CONFIG_INITIALIZER` of nccl.h begins with.
const MAGIC: u32 = 0xcafe_beef;
/// NCCL 2.30.0, whose settings [`sys::ncclConfig_t`] has: an older library reads as many of them as it knows.
const VERSION: u32 = 23_000;
/// A setting that is left to NCCL.
const UNSET: i32 = i32::MIN;

/// One rank's end. It stays in the thread that formed it.
pub(super) struct Communicator {
    /// Null where NCCL did not begin.
    comm: sys::ncclComm_t,
    stream: Arc<CudaStream>,
}

impl Communicator {
    /// Forms one of `size` ranks, each of which brings `id`; this is `rank`, on the GPU of `stream`.
    ///
    /// # Errors
    /// In a sentence: NCCL refuses, or did not find all ranks within `limit`.
    pub(super) fn form(
        stream: Arc<CudaStream>,
        rank: usize,
        size: usize,
        id: [u8; ID],
        limit: Duration,
    ) -> Result<Self, String> {
        // NCCL takes the GPU of the thread that calls it.
        stream.context().bind_to_thread().map_err(|error| said(&error))?;
        let (rank, size) =
            (rank.try_into().map_err(|_| "too high a rank")?, size.try_into().map_err(|_| "too many ranks")?);
        let id = sys::ncclUniqueId { internal: id.map(|byte| byte as _) };
        let (mut comm, mut config) = (std::ptr::null_mut(), unwaiting());
        // SAFETY: NCCL writes to `comm` before it returns, copies `config`, and keeps a pointer to neither.
        let begun = unsafe { result::comm_init_rank_config(&raw mut comm, size, id, rank, &raw mut config) };
        let own = Self { comm, stream }; // from here on aborted where anything fails
        begun.map_err(|error| said(&error.0))?;
        own.until(limit, "NCCL did not find all ranks", || own.is_idle())?;
        Ok(own)
    }

    /// Puts the sum over all ranks into `values`, which are as many on each.
    ///
    /// # Errors
    /// In a sentence, also where a rank did not take part within `limit`. NCCL may go on with the buffer until this is dropped.
    pub(super) fn sum(&self, values: &mut CudaSlice<f32>, limit: Duration) -> Result<(), String> {
        let count = values.len();
        {
            let (pointer, _recorded) = values.device_ptr_mut(&self.stream);
            let (pointer, stream) = (pointer as *mut _, self.stream.cu_stream() as _);
            let (numbers, sum) = (sys::ncclDataType_t::ncclFloat32, sys::ncclRedOp_t::ncclSum);
            // SAFETY: the buffer holds `count` numbers on the stream's GPU; it is freed in the order of that stream, which is after the sum.
            unsafe { result::all_reduce(pointer, pointer, count, numbers, sum, self.comm, stream) }
                .map_err(|error| said(&error.0))?;
            // Before that nothing else may be put on the stream.
            self.until(limit, "the sum did not begin", || self.is_idle())?;
        }
        let done = self.stream.record_event(None).map_err(|error| said(&error))?;
        self.until(limit, "no sum", || Ok(self.is_idle()? && done.try_is_complete().map_err(|error| said(&error))?))
    }

    /// Whether NCCL has nothing left to do on the host; an error that it met meanwhile is told here.
    fn is_idle(&self) -> Result<bool, String> {
        let mut state = sys::ncclResult_t::ncclSuccess;
        // SAFETY: the communicator lives until this is dropped, and NCCL writes to `state` before it returns.
        unsafe { sys::ncclCommGetAsyncError(self.comm, &raw mut state) }.result().map_err(|error| said(&error.0))?;
        match state {
            sys::ncclResult_t::ncclSuccess => Ok(true),
            sys::ncclResult_t::ncclInProgress => Ok(false),
            failed => Err(said(&failed)),
        }
    }

    fn until(&self, limit: Duration, else_: &str, done: impl Fn() -> Result<bool, String>) -> Result<(), String> {
        let began = Instant::now();
        while !done()? {
            if began.elapsed() > limit {
                return Err(format!("{else_} within {limit:?}"));
            }
            thread::park_timeout(LOOK); // nobody wakes it before
        }
        Ok(())
    }
}

impl Drop for Communicator {
    /// Ends whatever is under way, on the GPU too.
    fn drop(&mut self) {
        if self.comm.is_null() {
            return;
        }
        // SAFETY: it is used nowhere else, and never again.
        if let Err(error) = unsafe { result::comm_abort(self.comm) } {
            tracing::warn!(error = said(&error.0), "a communicator of NCCL could not be ended");
        }
    }
}

/// As `NCCL_CONFIG_INITIALIZER`, but that no call waits.
fn unwaiting() -> sys::ncclConfig_t {
    sys::ncclConfig_t {
        size: size_of::<sys::ncclConfig_t>(),
        magic: MAGIC,
        version: VERSION,
        blocking: 0,
        cgaClusterSize: UNSET,
        minCTAs: UNSET,
        maxCTAs: UNSET,
        netName: std::ptr::null(),
        splitShare: UNSET,
        trafficClass: UNSET,
        commName: std::ptr::null(),
        collnetEnable: UNSET,
        CTAPolicy: UNSET,
        shrinkShare: UNSET,
        nvlsCTAs: UNSET,
        nChannelsPerNetPeer: UNSET,
        nvlinkCentricSched: UNSET,
        graphUsageMode: UNSET,
        numRmaCtx: UNSET,
        maxP2pPeers: UNSET,
    }
}
