//! Ranks on GPUs, whose sums NVIDIA's NCCL makes; everything else goes the way of the group that they formed.

mod communicator;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use candle_core::Device;
use candle_core::cuda_backend::cudarc;
use cudarc::driver::CudaStream;
use cudarc::nccl::Id;

use self::communicator::Communicator;
use super::{Collective, CollectiveError, Operation};

/// Bytes of an id.
const ID: usize = 128;

/// A rank with a GPU of its own.
///
/// A communicator belongs to one thread, which takes its calls from a channel. It never waits in a call of CUDA or NCCL for longer
/// than the deadline, while the communicator forms nor later: it looks for the end again and again, and aborts the communicator where
/// none comes, which ends the sum on its GPU as well. Who waits for the thread gives up at twice the deadline, should NCCL not let go
/// of it: then the thread is left to NCCL.
pub struct Nccl {
    control: Box<dyn Collective>,
    calls: Sender<Call>,
    limit: Duration,
}

/// A rank's part of a sum, and where the whole is awaited.
struct Call {
    values: Vec<f32>,
    answer: Sender<Result<Vec<f32>, String>>,
}

/// An id as NCCL hands it out to the first rank of a group. Needs no GPU.
///
/// # Errors
/// What NCCL said.
pub fn new_id() -> Result<[u8; ID], String> {
    let id = Id::new().map_err(|error| said(&error.0))?;
    Ok(id.internal().map(|byte| byte as u8))
}

impl Nccl {
    /// The ranks of `control`, each on its own GPU, as one communicator; rank 0 hands out its id.
    ///
    /// # Errors
    /// [`CollectiveError::PeerLost`] where a rank did not come within `limit`, or NCCL refuses.
    pub fn new(mut control: Box<dyn Collective>, device: &Device, limit: Duration) -> Result<Self, CollectiveError> {
        let mut id = match control.rank() {
            0 => new_id().map_err(|why| lost(&*control, Operation::Broadcast, why))?.to_vec(),
            _ => Vec::new(),
        };
        control.broadcast(&mut id)?;
        match start(device, control.rank(), control.size(), id, limit) {
            Ok(calls) => Ok(Self { control, calls, limit }),
            Err(why) => Err(lost(&*control, Operation::Barrier, why)),
        }
    }
}

/// Starts the thread of a rank's communicator, and returns when it has formed.
fn start(device: &Device, rank: usize, size: usize, id: Vec<u8>, limit: Duration) -> Result<Sender<Call>, String> {
    let id: [u8; ID] = id.try_into().map_err(|_| format!("the id is not of {ID} bytes"))?;
    let stream = device.as_cuda_device().map_err(|error| error.to_string())?.cuda_stream();
    let stream = stream.context().new_stream().map_err(|error| said(&error))?;
    let ((calls, called), (ready, begun)) = (channel(), channel());
    let own = move || match Communicator::form(Arc::clone(&stream), rank, size, id, limit) {
        Ok(communicator) => {
            drop(ready.send(Ok(())));
            serve(communicator, &stream, limit, &called);
        }
        Err(error) => drop(ready.send(Err(error))),
    };
    thread::Builder::new().name(format!("nccl-rank-{rank}")).spawn(own).map_err(|error| error.to_string())?;
    let formed = begun.recv_timeout(2 * limit).map_err(|_| "NCCL's thread does not answer".to_owned())?;
    formed.map(|()| calls)
}

/// Answers calls until there are no more, or one fails: the communicator ends with it.
fn serve(communicator: Communicator, stream: &Arc<CudaStream>, limit: Duration, calls: &Receiver<Call>) {
    for Call { values, answer } in calls {
        let mut buffer = match stream.clone_htod(&values) {
            Ok(buffer) => buffer,
            Err(error) => return drop(answer.send(Err(said(&error)))),
        };
        let sum = communicator.sum(&mut buffer, limit);
        let sum = sum.and_then(|()| stream.clone_dtoh(&buffer).map_err(|error| said(&error)));
        let failed = sum.is_err();
        drop(answer.send(sum));
        if failed {
            drop(communicator); // what NCCL still does to the buffer ends before the buffer does
            return drop(buffer);
        }
    }
}

fn lost(control: &dyn Collective, operation: Operation, why: String) -> CollectiveError {
    let others = (0..control.size()).filter(|rank| *rank != control.rank()).collect();
    CollectiveError::PeerLost { rank: control.rank(), operation, lost: others, why }
}

/// Errors of cudarc that have no sentence have a name at least.
fn said(error: &impl Debug) -> String {
    format!("{error:?}")
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.control.rank()
    }

    fn size(&self) -> usize {
        self.control.size()
    }

    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), CollectiveError> {
        let (operation, ended) = (Operation::Sum { length: values.len() }, "NCCL's communicator has ended");
        if values.is_empty() {
            return self.control.barrier();
        }
        let (answer, answered) = channel();
        let sent = self.calls.send(Call { values: values.to_vec(), answer });
        let sum = sent.map_err(|_| ended.to_owned()).and_then(|()| {
            // The thread keeps the deadline; more is waited for only so that nothing can hang.
            answered.recv_timeout(2 * self.limit).unwrap_or_else(|_| Err(ended.to_owned()))
        });
        values.copy_from_slice(&sum.map_err(|why| lost(&*self.control, operation, why))?);
        Ok(())
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<(), CollectiveError> {
        self.control.broadcast(bytes)
    }

    fn gather(&mut self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, CollectiveError> {
        self.control.gather(bytes)
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.control.barrier()
    }
}

impl Debug for Nccl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nccl").field("rank", &self.rank()).field("size", &self.size()).finish_non_exhaustive()
    }
}
