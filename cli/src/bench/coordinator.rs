//! `bench coordinator`: a coordinator in a process of its own, behind TCP, with its store on disk; clients that submit, and workers that
//! lease, renew and complete trainings without doing them.

mod fleet;
mod people;
mod process;

use crate::args::BenchCoordinatorArgs;
use crate::commands::Context;
use crate::exit::{Exit, Failure};
use crate::output::Format;
use fleet::Spans;
use people::Desk;
use process::Process;
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct View {
    work: &'static str,
    store: &'static str,
    queued: usize,
    workers: usize,
    clients: usize,
    tenants: u32,
    watches: usize,
    /// Resident memory of the coordinator that the watches took.
    watches_mib: f64,
    /// Its peak.
    peak_mib: f64,
    seconds: f64,
    /// Trainings queued before it began, per second.
    fill_per_second: f64,
    /// Leased, renewed and completed.
    cycles: usize,
    cycles_per_second: f64,
    submits: usize,
    submit_p50_ms: f64,
    submit_p99_ms: f64,
    claim_p50_ms: f64,
    claim_p99_ms: f64,
    renew_p50_ms: f64,
    renew_p99_ms: f64,
    complete_p50_ms: f64,
    complete_p99_ms: f64,
    /// Calls that failed.
    errors: usize,
    /// Completions that the coordinator had acknowledged and that it does not know of after `kill -9` and a new start.
    lost: usize,
}

/// Measures, and prints the figures.
///
/// # Errors
/// A coordinator that does not start, a store that is not empty, calls that fail before the measurement.
pub(crate) async fn command(context: &Context, args: &BenchCoordinatorArgs) -> Result<(), Failure> {
    let view = measure(args, |line| context.console.say(line)).await?;
    Format::Json.print_line(&view)
}

async fn measure(args: &BenchCoordinatorArgs, say: impl Fn(String)) -> Result<View, Failure> {
    let mut process = Process::start(args.store.as_deref())?;
    let desk = Desk::open(&process, args).await?;
    let filling = Instant::now();
    desk.fill(args.queued).await?;
    let fill_per_second = args.queued as f64 / filling.elapsed().as_secs_f64();
    say(format!("{} trainings are queued, {fill_per_second:.0} a second", args.queued));

    let before = process.resident_mib()?;
    let watches = desk.watch(&process, args.watches).await?;
    let watches_mib = process.resident_mib()? - before;

    let workers = desk.hire().await?;
    let begun = Instant::now();
    let mut spans = desk.work(&workers, Duration::from_secs(args.seconds)).await;
    let seconds = begun.elapsed().as_secs_f64();
    let peak_mib = process.peak_mib()?;
    drop(watches);

    process.restart()?;
    let known = desk.reopened(&process)?.completed().await?;
    let view = View {
        work: "coordinator",
        store: if args.store.as_deref().is_some_and(|url| url.starts_with("postgres")) { "postgres" } else { "sqlite" },
        queued: args.queued,
        workers: args.workers,
        clients: args.clients,
        tenants: args.tenants,
        watches: args.watches,
        watches_mib,
        peak_mib,
        seconds,
        fill_per_second,
        cycles: spans.completes.len(),
        cycles_per_second: spans.completes.len() as f64 / seconds,
        submits: spans.submits.len(),
        submit_p50_ms: Spans::at(&mut spans.submits, 0.5),
        submit_p99_ms: Spans::at(&mut spans.submits, 0.99),
        claim_p50_ms: Spans::at(&mut spans.claims, 0.5),
        claim_p99_ms: Spans::at(&mut spans.claims, 0.99),
        renew_p50_ms: Spans::at(&mut spans.renews, 0.5),
        renew_p99_ms: Spans::at(&mut spans.renews, 0.99),
        complete_p50_ms: Spans::at(&mut spans.completes, 0.5),
        complete_p99_ms: Spans::at(&mut spans.completes, 0.99),
        errors: spans.errors,
        lost: spans.completes.len().saturating_sub(known),
    };
    Ok(view)
}

fn failed(what: &str, status: &tonic::Status) -> Failure {
    Failure::new(Exit::Unexpected, format!("the coordinator under test did not {what}: {}", status.message()))
}
