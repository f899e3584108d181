//! The commands, one file each, and what they share.

mod admin;
mod audit;
mod doctor;
mod embedding;
mod fetch;
mod jobs;
mod manual;
pub(crate) mod meta;
mod render;
mod subjects;
mod submit;

pub use fetch::{Fetched, fetch_subject};
pub(crate) use render::undrawn;

use crate::args::{BenchCommand, Cli, Command, EmbeddingCommand};
use crate::client::Client;
use crate::exit::Failure;
use crate::output::Format;
use crate::settings::{Row, Settings};
use crate::telemetry::Console;
use crate::{bench, check, demo, roles, up};

/// What a command works with.
#[derive(Debug)]
pub struct Context {
    /// The settings in force.
    pub settings: Settings,
    /// Where each of them came from.
    pub rows: Vec<Row>,
    /// Standard error.
    pub console: Console,
    /// How data is printed.
    pub format: Format,
}

impl Context {
    /// A client of the server that the settings name.
    ///
    /// # Errors
    /// As [`Client::from_settings`].
    pub fn client(&self) -> Result<Client, Failure> {
        Client::from_settings(&self.settings, &self.console)
    }
}

/// Does what the command line asks for.
///
/// # Errors
/// The failure that chooses the exit code.
pub async fn run(context: &Context, cli: Cli) -> Result<(), Failure> {
    if cli.command.only_checks() {
        return check::command(context, &cli.command);
    }
    match cli.command {
        Command::Demo(args) => demo::command(context, &args).await,
        Command::Up(_) => up::command(context).await,
        Command::Coordinator(_) => roles::coordinator(context).await,
        Command::Trainer(_) => roles::trainer(context).await,
        Command::Sampler(_) => roles::sampler(context).await,
        Command::Doctor => doctor::command(context).await,
        Command::Submit(args) => submit::command(context, &args).await,
        Command::Watch(job) => jobs::watch_job(context, &job.job).await,
        Command::List { limit } => jobs::list(context, limit).await,
        Command::Show(job) => jobs::show(context, &job.job).await,
        Command::Fetch { job, out, previews } => fetch::command(context, &job, &out, previews).await,
        Command::Cancel(job) => jobs::cancel(context, &job.job).await,
        Command::Forget { subject, yes } => subjects::forget(context, &subject, yes).await,
        Command::Subjects => subjects::list(context).await,
        Command::Embedding { command: EmbeddingCommand::Export { subject, out } } => {
            embedding::export(context, &subject, &out).await
        }
        Command::Embedding { command: EmbeddingCommand::Inspect { file } } => embedding::inspect(context, &file),
        Command::Render(args) => render::command(context, &args),
        Command::Bench { command: BenchCommand::Coordinator(args) } => {
            bench::coordinator::command(context, &args).await
        }
        Command::Bench { command } => bench::command(context, &command),
        Command::Admin { command } => admin::command(context, command).await,
        Command::Audit { command } => audit::command(context, command).await,
        Command::Config => meta::config(context),
        Command::Version => meta::version(context),
        Command::Completions { shell } => manual::completions(context, shell),
        Command::Man { dir } => manual::pages(&dir),
        Command::ExitCodes => meta::exit_codes(context),
    }
}
