//! The client and server of Likeness as one binary: arguments, settings, telemetry, signals, and the composition of the
//! roles.

pub mod args;
pub mod bench;
pub mod bucket;
pub mod build;
pub mod bundle;
pub mod check;
pub mod client;
pub mod commands;
pub mod demo;
pub mod device;
pub mod exit;
pub mod files;
pub mod group;
pub mod health;
pub mod memory;
pub mod models;
pub mod output;
pub mod packing;
pub mod photos;
pub mod progress;
pub mod prompts_file;
pub mod renewed;
pub mod roles;
pub mod settings;
pub mod signals;
pub mod state_dir;
pub mod telemetry;
pub mod tls;
pub mod up;
pub mod view;
pub mod worker;

use args::Cli;
use clap::Parser;
use commands::Context;
use exit::Failure;
use likeness_telemetry::span;
use output::Format;
use settings::{Resolved, Settings, Sources};
use std::process::ExitCode;
use telemetry::{Console, Telemetry};
use tokio::runtime::{Builder, Runtime};
use tracing::{Instrument, Span};

/// The whole program: from the command line to the exit code.
#[must_use]
pub fn main() -> ExitCode {
    likeness_diffusion::memory::keep_freed_memory();
    tls::install_provider();
    let cli = Cli::parse();
    let console = Console::stderr();
    match start(cli, console.clone()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console.say(format!("error: {failure}"));
            ExitCode::from(&failure)
        }
    }
}

fn start(cli: Cli, console: Console) -> Result<(), Failure> {
    let Resolved { settings, rows } =
        Settings::resolve(&Sources::of_process(cli.global.config.clone(), cli.settings()))?;
    if cli.command.role() != Some("coordinator") {
        likeness_diffusion::memory::share_one_heap();
    }
    compute_threads(settings.threads)?;
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let role = cli.command.role();
        let traces = telemetry::install(&settings, role.unwrap_or("client"), role.is_some(), &console)?;
        let context = Context { settings, rows, console, format: Format::of(cli.global.json) };
        let serving = role.filter(|_| !cli.command.only_checks());
        let telemetry = Telemetry::start(&context.settings, serving).await?;
        let span = cli.command.errand().map_or_else(Span::none, |name| span!("errand", otel.name = name));
        let ended = commands::run(&context, cli).instrument(span).await;
        tokio::join!(traces.end(), telemetry.end());
        ended
    });
    // Computations that nobody waits for any more must not keep the process.
    runtime.shutdown_background();
    ended
}

fn runtime() -> Result<Runtime, Failure> {
    Builder::new_multi_thread().enable_all().thread_name("likeness-io").build().map_err(Failure::unexpected)
}

/// Sets how many threads compute; 0: all cores.
fn compute_threads(threads: usize) -> Result<(), Failure> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(Failure::unexpected)
}
