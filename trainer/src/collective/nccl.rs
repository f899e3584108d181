//! Ranks on GPUs, whose sums NVIDIA's NCCL makes; everything else goes the way of the group that they formed.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use candle_core::Device;
use candle_core::cuda_backend::cudarc;
use cudarc::driver::{CudaSlice, CudaStream};
use cudarc::nccl::{Comm, Id, ReduceOp};

use super::{Collective, CollectiveError, Operation};

/// Between two looks at whether a sum is there.
const LOOK: Duration = Duration::from_micros(20);
/// Bytes of an id.
const ID: usize = 128;

/// A rank with a GPU of its own.
///
/// A communicator belongs to one thread, which takes its calls from a channel. It never waits in a call of CUDA or NCCL for longer
/// than the deadline: it looks for the end of the sum again and again, and aborts the communicator where none comes, which ends the
/// sum on its GPU as well. Only the beginning, in which NCCL waits for all ranks by itself, cannot be cut short; the thread is left
/// to it then.
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
    let id = Id::new().map_err(|error| said(&error))?;
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
        let (rank, size) = (control.rank(), control.size());
        let start = || -> Result<_, String> {
            let id: [u8; ID] = id.try_into().map_err(|_| "the id is not of 128 bytes".to_owned())?;
            let stream = device.as_cuda_device().map_err(|error| error.to_string())?.cuda_stream();
            let stream = stream.context().new_stream().map_err(|error| said(&error))?;
            let ((calls, called), (ready, begun)) = (channel(), channel());
            let own = move || match Comm::from_rank(stream.clone(), rank, size, Id::uninit(id.map(|byte| byte as _))) {
                Ok(comm) => {
                    drop(ready.send(Ok(())));
                    serve(comm, &stream, limit, &called);
                }
                Err(error) => drop(ready.send(Err(said(&error)))),
            };
            thread::Builder::new().name(format!("nccl-rank-{rank}")).spawn(own).map_err(|error| error.to_string())?;
            match begun.recv_timeout(limit) {
                Ok(begun) => begun.map(|()| calls),
                Err(RecvTimeoutError::Timeout) => Err(format!("NCCL did not find all ranks within {limit:?}")),
                Err(RecvTimeoutError::Disconnected) => Err("NCCL's thread panicked".to_owned()),
            }
        };
        match start() {
            Ok(calls) => Ok(Self { control, calls, limit }),
            Err(why) => Err(lost(&*control, Operation::Barrier, why)),
        }
    }
}

/// Answers calls until there are no more, or one fails: the communicator ends with it.
fn serve(comm: Comm, stream: &Arc<CudaStream>, limit: Duration, calls: &Receiver<Call>) {
    for Call { values, answer } in calls {
        let mut buffer = match stream.clone_htod(&values) {
            Ok(buffer) => buffer,
            Err(error) => return drop(answer.send(Err(said(&error)))),
        };
        let sum = sum(&comm, stream, &mut buffer, limit);
        let failed = sum.is_err();
        if failed {
            drop(comm); // aborts: what NCCL still does to the buffer ends before the buffer does
            drop(buffer);
            return drop(answer.send(sum));
        }
        drop(answer.send(sum));
    }
}

fn sum(
    comm: &Comm,
    stream: &Arc<CudaStream>,
    buffer: &mut CudaSlice<f32>,
    limit: Duration,
) -> Result<Vec<f32>, String> {
    comm.all_reduce_in_place(buffer, &ReduceOp::Sum).map_err(|error| said(&error))?;
    let (done, began) = (stream.record_event(None).map_err(|error| said(&error))?, Instant::now());
    while !done.try_is_complete().map_err(|error| said(&error))? {
        if began.elapsed() > limit {
            return Err(format!("no sum within {limit:?}"));
        }
        thread::park_timeout(LOOK); // nobody wakes it before
    }
    stream.clone_dtoh(buffer).map_err(|error| said(&error))
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

/// What `conformance.rs` asks of every backend, as far as GPUs change it.
#[cfg(test)]
mod tests {
    use std::thread::scope;

    use super::super::local;
    use super::*;

    const AMPLE: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(500);

    /// A rank on each GPU that there is.
    fn group(limit: Duration) -> Vec<Nccl> {
        let devices: Vec<Device> = (0..64).map_while(|number| Device::new_cuda(number).ok()).collect();
        assert!(devices.len() > 1, "{} GPUs are too few", devices.len());
        scope(|scope| {
            let start =
                |(end, device): (_, Device)| scope.spawn(move || Nccl::new(Box::new(end), &device, limit).unwrap());
            let ranks: Vec<_> = local(devices.len(), limit).into_iter().zip(devices).map(start).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    fn each<T: Send>(ranks: &mut [Nccl], act: impl Fn(&mut Nccl) -> T + Sync) -> Vec<T> {
        scope(|scope| {
            let act = &act;
            let threads: Vec<_> = ranks.iter_mut().map(|rank| scope.spawn(move || act(rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    #[ignore = "needs two GPUs"]
    fn sums_of_any_length_come_to_all() {
        let mut ranks = group(AMPLE);
        let size = ranks.len() as f32;
        for length in [0, 1, 5, 16_384, 786_432] {
            for sum in each(&mut ranks, |rank| {
                let mut values: Vec<f32> = (0..length).map(|i| (i % 97 + rank.rank()) as f32).collect();
                rank.all_reduce_sum(&mut values).map(|()| values)
            }) {
                let want = |i: usize| (i % 97) as f32 * size + size * (size - 1.0) / 2.0;
                assert!(sum.unwrap().iter().enumerate().all(|(i, sum)| *sum == want(i)), "{length} numbers");
            }
        }
    }

    #[test]
    #[ignore = "needs two GPUs"]
    fn a_rank_that_never_comes_ends_the_communicator_at_the_deadline_and_for_good() {
        let mut ranks = group(SHORT);
        let errors = each(&mut ranks, |rank| (rank.rank() > 0).then(|| rank.all_reduce_sum(&mut [1.0]).unwrap_err()));
        assert!(errors.into_iter().flatten().all(|error| matches!(error, CollectiveError::PeerLost { .. })));
        let again = each(&mut ranks[1..], |rank| rank.all_reduce_sum(&mut [1.0]).unwrap_err().to_string());
        assert!(again.iter().all(|text| text.contains("has ended")), "{again:?}");
    }

    #[test]
    #[ignore = "needs two GPUs"]
    fn a_rank_that_dies_is_lost_within_the_deadline() {
        let mut ranks = group(SHORT);
        drop(ranks.remove(0));
        for error in each(&mut ranks, |rank| rank.all_reduce_sum(&mut [1.0]).unwrap_err()) {
            assert!(matches!(error, CollectiveError::PeerLost { .. }), "{error}");
        }
    }
}
