//! What an all-reduce takes, between threads of this process or between real processes.

use super::median;
use crate::args::{Backend, BenchAllReduceArgs};
use crate::commands::Context;
use crate::exit::{Exit, Failure};
use crate::settings::token;
use likeness_diffusion::Device;
use likeness_proto::Secret;
use likeness_trainer::collective::{
    Admission, Assembly, Collective, CollectiveError, JoinError, Local, Operation, Remote, Terms, local, on_device,
    serve, sums_by,
};
use serde::Serialize;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

/// Far beyond what any call takes.
const LIMIT: Duration = Duration::from_secs(60);
/// Calls before those that count.
const WARMUP: usize = 20;

#[derive(Debug, Serialize)]
pub(super) struct AllReduceView {
    work: &'static str,
    backend: Backend,
    ranks: usize,
    bytes: usize,
    calls: usize,
    median_ms: f64,
    /// The ninety-ninth of a hundred.
    p99_ms: f64,
}

/// Measures, or takes part in what another process measures: then there is nothing to tell.
pub(super) fn measure(context: &Context, args: &BenchAllReduceArgs) -> Result<Option<AllReduceView>, Failure> {
    let runtime = Handle::current();
    // Calls block, which no thread of a runtime may.
    let work = || match (args.join, args.backend) {
        (Some(leader), _) => take_part(&runtime, context, args, leader).map(|()| None),
        (None, Backend::Local) => threads(args).map(Some),
        (None, Backend::Grpc) => processes(&runtime, args).map(Some),
        (None, Backend::Nccl) => gpus(context, args).map(Some),
    };
    let seconds = thread::scope(|scope| scope.spawn(work).join());
    let seconds = seconds.map_err(|_panic| Failure::unexpected("the measurement panicked"))??;
    Ok(seconds.map(|seconds| AllReduceView {
        work: "all-reduce",
        backend: args.backend,
        ranks: args.ranks,
        bytes: args.bytes,
        calls: args.calls,
        median_ms: 1e3 * median(seconds.clone()),
        p99_ms: 1e3 * percentile(seconds, 0.99),
    }))
}

/// A group of threads; the seconds that rank 0 waited for each call.
fn threads(args: &BenchAllReduceArgs) -> Result<Vec<f64>, Failure> {
    on_devices(vec![Device::Cpu; args.ranks], args)
}

/// As [`threads`], with a GPU for each.
fn gpus(context: &Context, args: &BenchAllReduceArgs) -> Result<Vec<f64>, Failure> {
    let devices: Vec<Device> =
        (0..args.ranks).map(|rank| context.settings.device.open(rank)).collect::<Result<_, _>>()?;
    if sums_by(&devices[0]) != "nccl" {
        let message = "sums are made by NCCL only between GPUs, in a program with the feature nccl; set device to cuda";
        return Err(Failure::new(Exit::Device, message.to_owned()));
    }
    on_devices(devices, args)
}

fn on_devices(devices: Vec<Device>, args: &BenchAllReduceArgs) -> Result<Vec<f64>, Failure> {
    let told = thread::scope(|scope| {
        let start = |(end, device): (Local, Device)| {
            scope.spawn(move || calls(&mut *on_device(Box::new(end), &device, LIMIT)?, args))
        };
        let threads: Vec<_> = local(args.ranks, LIMIT).into_iter().zip(devices).map(start).collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).next()
    });
    told.and_then(Result::ok).unwrap_or_else(|| Ok(Vec::new())).map_err(Failure::unexpected)
}

/// A group of processes, of which this one is rank 0.
fn processes(runtime: &Handle, args: &BenchAllReduceArgs) -> Result<Vec<f64>, Failure> {
    let token = random_token()?;
    let assembly = Assembly::new(terms(args), 1, LIMIT);
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).map_err(Failure::unexpected)?;
    let address = listener.local_addr().map_err(Failure::unexpected)?;
    let admission = Admission::Token(token.clone());
    runtime.spawn(serve(listener, assembly.clone(), &admission, CancellationToken::new()));
    let others: Vec<_> =
        (1..args.ranks).map(|rank| Other::start(args, address, &token, rank)).collect::<Result<_, _>>()?;

    let mut ends =
        assembly.form(LIMIT).map_err(|missing| Failure::unexpected(format!("ranks {missing:?} did not join")))?;
    let seconds = calls(&mut ends[0], args).map_err(Failure::unexpected)?;
    others.into_iter().try_for_each(Other::end)?;
    Ok(seconds)
}

/// Another rank's process; killed where it is not waited for.
struct Other(Child);

impl Other {
    fn start(args: &BenchAllReduceArgs, leader: SocketAddr, token: &Secret, rank: usize) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(Failure::unexpected)?;
        let counts = [("ranks", args.ranks), ("bytes", args.bytes), ("calls", args.calls), ("rank", rank)];
        let mut command = Command::new(program);
        command.args(["bench", "all-reduce", "--backend", "grpc"]).env("LIKENESS__TOKEN", token.expose());
        command.args(["--join", &leader.to_string()]).stdin(Stdio::null());
        for (name, count) in counts {
            command.arg(format!("--{name}")).arg(count.to_string());
        }
        Ok(Self(command.spawn().map_err(Failure::unexpected)?))
    }

    fn end(mut self) -> Result<(), Failure> {
        let status = self.0.wait().map_err(Failure::unexpected)?;
        status
            .success()
            .then_some(())
            .ok_or_else(|| Failure::unexpected(format!("a rank's process ended with {status}")))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it has ended already where all went well
        let _ = self.0.wait();
    }
}

/// As a rank of another process' group.
fn take_part(
    runtime: &Handle,
    context: &Context,
    args: &BenchAllReduceArgs,
    leader: SocketAddr,
) -> Result<(), Failure> {
    let token = context.settings.token.as_ref();
    let token = token.ok_or_else(|| Failure::new(Exit::Token, "a rank that joins needs the group's token"))?;
    let leader = Endpoint::from_shared(format!("http://{leader}")).map_err(Failure::unexpected)?;
    let joined = runtime.block_on(Remote::join(leader, Some(token), &terms(args), args.rank, LIMIT));
    let mut end = joined.map_err(|error| match error {
        JoinError::Refused(refusal) => refusal.into(),
        JoinError::Unanswered(why) => Failure::new(Exit::Unreachable, why),
    })?;
    calls(&mut end, args).map(drop).map_err(Failure::unexpected)
}

/// The seconds of each call but the first ones, after a sum that is looked at: that of the ranks' numbers from 1 on.
fn calls(end: &mut dyn Collective, args: &BenchAllReduceArgs) -> Result<Vec<f64>, CollectiveError> {
    let (rank, size) = (end.rank(), end.size());
    let mut sum = vec![(rank + 1) as f32; 1000];
    end.all_reduce_sum(&mut sum)?;
    if let Some(wrong) = sum.iter().find(|sum| **sum != (size * (size + 1) / 2) as f32) {
        let (operation, why) =
            (Operation::Sum { length: sum.len() }, format!("the numbers 1 to {size} are not {wrong}"));
        return Err(CollectiveError::Mismatch { rank, operation, why });
    }
    let mut values = vec![0.0; args.bytes / size_of::<f32>()];
    let mut call = || {
        let began = Instant::now();
        end.all_reduce_sum(&mut values).map(|()| began.elapsed().as_secs_f64())
    };
    let seconds = (0..WARMUP + args.calls).map(|_| call()).collect::<Result<Vec<_>, _>>()?;
    end.barrier()?;
    Ok(seconds[WARMUP..].to_vec())
}

/// No model is at work here.
fn terms(args: &BenchAllReduceArgs) -> Terms {
    let software = env!("CARGO_PKG_VERSION").to_owned();
    Terms { software, base_model: "none".to_owned(), size: args.ranks }
}

fn random_token() -> Result<Secret, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(Failure::unexpected)?;
    token(&hex::encode(bytes))
}

/// The value that `share` of all are not above.
fn percentile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (share * values.len() as f64).ceil() as usize;
    values[place.clamp(1, values.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| percentile(hundred.clone(), share)), [1.0, 50.0, 99.0, 100.0]);
        assert_eq!(percentile(vec![7.0], 0.99), 7.0);
    }
}
