//! The command line.

mod admin;
mod audit;
mod bench;
mod job;

pub use admin::{AdminCommand, KeyCommand, TenantCommand};
pub use audit::{AuditCommand, AuditPlace};
pub use bench::{
    Backend, BenchAllReduceArgs, BenchCommand, BenchCoordinatorArgs, BenchPackArgs, BenchParityArgs, BenchRenderArgs,
    BenchTrainArgs, MakeModelArgs,
};
pub use job::{PhotosArgs, RenderArgs, SubmitArgs, TrainArgs};

use crate::exit;
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Turns a handful of photos of a subject into avatars.
#[derive(Debug, Parser)]
#[command(
    name = "likeness",
    version,
    max_term_width = 110,
    after_help = "`likeness exit-codes` lists how commands end."
)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The flags that are settings. What a command sets by itself gives way to the flags of every command.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        self.command.settings().into_iter().chain(self.global.settings()).collect()
    }
}

/// Flags of every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "For every command")]
pub struct Global {
    /// Settings file [default: likeness.toml in the state folder]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// State folder [default: ~/.local/share/likeness]
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Server to call [default: the one of the state folder]
    #[arg(long, global = true, value_name = "URL")]
    pub server: Option<String>,
    /// File with the access token [default: `token` in the state folder]
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Base model, a Stable Diffusion 1.x or 2.x directory [default: the bundled avatar-tiny]
    #[arg(long, global = true, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Where to compute: cpu, cuda or cuda:N [default: cpu]
    #[arg(long, global = true, value_name = "DEVICE")]
    pub device: Option<String>,
    /// What to compute in: f32, or bf16 on a GPU [default: f32]
    #[arg(long, global = true, value_name = "TYPE")]
    pub precision: Option<String>,
    /// Threads that compute; 0: all cores
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// Log filter, like `info` or `likeness_worker=debug`
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

impl Global {
    /// The flags that are settings.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let given = [
            ("state", path(&self.state)),
            ("server", self.server.clone()),
            ("token_file", path(&self.token_file)),
            ("model", path(&self.model)),
            ("device", self.device.clone()),
            ("precision", self.precision.clone()),
            ("threads", self.threads.map(|threads| threads.to_string())),
            ("log", self.log.clone()),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Learn a bundled subject and draw it, start to end, in this process
    Demo(DemoArgs),
    /// Run coordinator, trainer and sampler until stopped
    Up(ListenArgs),
    /// Run a coordinator alone
    Coordinator(ServeArgs),
    /// Run a trainer for a coordinator, or a part of one
    Trainer(TrainerArgs),
    /// Run a sampler for a coordinator
    Sampler(WorkerArgs),
    /// Look whether this machine has what the settings ask for
    Doctor,
    /// Send photos and ask for avatars
    Submit(Box<SubmitArgs>),
    /// Follow a job until it has ended
    Watch(JobArg),
    /// List jobs, newest first
    List {
        /// Jobs at most
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show a job
    Show(JobArg),
    /// Download a job's avatars, contact sheets and embeddings
    Fetch {
        /// Job to fetch
        job: String,
        /// Folder to write to; a folder for each subject is made in it
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Also the pictures drawn while the subjects were being learned
        #[arg(long)]
        previews: bool,
    },
    /// Stop a job; what is finished stays
    Cancel(JobArg),
    /// Erase all that there is of a subject, and print a receipt
    Forget {
        /// Subject to erase
        subject: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// List subjects
    Subjects,
    /// Export or inspect embeddings
    Embedding {
        /// What to do.
        #[command(subcommand)]
        command: EmbeddingCommand,
    },
    /// Draw one picture with an embedding, without a service
    Render(RenderArgs),
    /// Measure speed and memory, with the arguments and fields of tests/peer/peer.py; on 2 threads unless --threads is given
    Bench {
        /// What to measure.
        #[command(subcommand)]
        command: BenchCommand,
    },
    /// Tenants and API keys, for administrators
    Admin {
        /// What to do.
        #[command(subcommand)]
        command: AdminCommand,
    },
    /// The log of who did what, read from the store itself
    Audit {
        /// What to do.
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Show the settings in force and where each came from
    Config,
    /// Show the version
    Version,
    /// Print what makes a shell complete commands and flags: `source <(likeness completions bash)`
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write a man page for every command
    Man {
        /// Folder to write them to; made if needed
        dir: PathBuf,
    },
    /// List the exit codes
    #[command(after_help = exit::table())]
    ExitCodes,
}

/// Names a job.
#[derive(Debug, Args)]
pub struct JobArg {
    /// The job
    pub job: String,
}

/// What `embedding` does.
#[derive(Debug, Subcommand)]
pub enum EmbeddingCommand {
    /// Download a subject's newest embedding
    Export {
        /// The subject
        subject: String,
        /// File to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Say what an embedding file holds
    Inspect {
        /// The file
        file: PathBuf,
    },
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Folder to write to
    #[arg(long, value_name = "DIR", default_value = "likeness-demo")]
    pub out: PathBuf,
    /// Bundled subject to learn
    #[arg(long, value_name = "NAME", default_value = "subject-02")]
    pub subject: String,
    /// Prompts file [default: the bundled one]
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// How to learn it.
    #[command(flatten)]
    pub train: TrainArgs,
}

/// Where to listen.
#[derive(Debug, Default, Args)]
pub struct ListenArgs {
    /// Address to listen on, on this machine [default: 127.0.0.1:7431]
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "port")]
    pub listen: Option<SocketAddr>,
    /// Port to listen on, on 127.0.0.1; 0: any that is free
    #[arg(long)]
    pub port: Option<u16>,
    /// Only look whether it would start so: read flags, variables, settings file and the files that they name, and say what holds
    #[arg(long)]
    pub check_config: bool,
}

impl ListenArgs {
    /// The flags that are settings.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let port = self.port.map(|port| format!("127.0.0.1:{port}"));
        let listen = self.listen.map(|address| address.to_string()).or(port);
        listen.map(|address| ("listen", address)).into_iter().collect()
    }
}

/// Arguments of `coordinator`.
#[derive(Debug, Default, Args)]
pub struct ServeArgs {
    /// Where to listen.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Where it remembers, sqlite:FILE or postgres://… [default: likeness.db in the state folder]
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Where objects lie, file:///… or s3://… [default: the folder `bucket` in the state folder]
    #[arg(long, value_name = "URL")]
    pub bucket: Option<String>,
}

/// Arguments of `trainer` and `sampler`.
#[derive(Debug, Default, Args)]
pub struct WorkerArgs {
    /// Where objects lie, file:///… or s3://… [default: the folder `bucket` in the state folder]
    #[arg(long, value_name = "URL")]
    pub bucket: Option<String>,
    /// The worker's name, the same over restarts [default: its role]
    #[arg(long)]
    pub name: Option<String>,
    /// Tasks at the same time [default: 4 of a sampler, of a trainer as many as its measured curve asks for]
    #[arg(long)]
    pub slots: Option<usize>,
    /// Only look whether it would start so: read flags, variables, settings file and the files that they name, and say what holds
    #[arg(long)]
    pub check_config: bool,
}

/// Arguments of `trainer`.
#[derive(Debug, Default, Args)]
pub struct TrainerArgs {
    /// As every worker.
    #[command(flatten)]
    pub worker: WorkerArgs,
    /// Devices of this node that share its steps, a rank each; on the CPU they share the model [default: 1]
    #[arg(long, value_name = "N")]
    pub ranks: Option<usize>,
    /// HOST:PORT where the leader of a group of trainers listens [default: LWS_LEADER_ADDRESS, port 7432]
    #[arg(long, value_name = "ADDRESS")]
    pub group_leader: Option<String>,
    /// Trainers in the group [default: LWS_GROUP_SIZE, or 1]
    #[arg(long, value_name = "K")]
    pub group_size: Option<usize>,
    /// Which of them this is; 0 leads and has the tasks [default: LWS_WORKER_INDEX, or 0]
    #[arg(long, value_name = "I")]
    pub group_index: Option<usize>,
}

impl TrainerArgs {
    fn settings(&self) -> Vec<(&'static str, String)> {
        let count = |count: Option<usize>| count.map(|count| count.to_string());
        let group = [
            ("ranks", count(self.ranks)),
            ("group_leader", self.group_leader.clone()),
            ("group_size", count(self.group_size)),
            ("group_index", count(self.group_index)),
        ];
        let group = group.into_iter().filter_map(|(name, value)| Some((name, value?)));
        self.worker.settings("trainer_slots").into_iter().chain(group).collect()
    }
}

impl Command {
    /// The flags of this command that are settings.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Up(listen) => listen.settings(),
            Self::Coordinator(serve) => {
                let bucket = serve.bucket.clone().map(|url| ("bucket", url));
                let store = serve.store.clone().map(|url| ("store", url));
                serve.listen.settings().into_iter().chain(bucket).chain(store).collect()
            }
            Self::Trainer(trainer) => trainer.settings(),
            Self::Sampler(worker) => worker.settings("sampler_slots"),
            Self::Bench { command } => command.settings(),
            Self::Audit { command } => command.settings(),
            _ => Vec::new(),
        }
    }

    /// Whether it is only asked whether it would start.
    #[must_use]
    pub fn only_checks(&self) -> bool {
        match self {
            Self::Up(listen) => listen.check_config,
            Self::Coordinator(serve) => serve.listen.check_config,
            Self::Trainer(trainer) => trainer.worker.check_config,
            Self::Sampler(worker) => worker.check_config,
            _ => false,
        }
    }

    /// Whether it runs until stopped, so that its log says what happens.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.role().is_some()
    }

    /// What a trace of it is called; none: it calls nobody, or is no errand of one's own.
    #[must_use]
    pub fn errand(&self) -> Option<&'static str> {
        match self {
            Self::Submit(_) => Some("submit"),
            Self::Watch(_) => Some("watch"),
            Self::List { .. } => Some("list"),
            Self::Show(_) => Some("show"),
            Self::Fetch { .. } => Some("fetch"),
            Self::Cancel(_) => Some("cancel"),
            Self::Forget { .. } => Some("forget"),
            Self::Subjects => Some("subjects"),
            _ => None,
        }
    }

    /// What it does until stopped, if it is such a command.
    #[must_use]
    pub fn role(&self) -> Option<&'static str> {
        match self {
            _ if self.only_checks() => None,
            Self::Up(_) => Some("up"),
            Self::Coordinator(_) => Some("coordinator"),
            Self::Trainer(_) => Some("trainer"),
            Self::Sampler(_) => Some("sampler"),
            _ => None,
        }
    }
}

impl WorkerArgs {
    fn settings(&self, slots: &'static str) -> Vec<(&'static str, String)> {
        let slots = self.slots.map(|count| (slots, count.to_string()));
        let bucket = self.bucket.clone().map(|url| ("bucket", url));
        let name = self.name.clone().map(|name| ("name", name));
        slots.into_iter().chain(bucket).chain(name).collect()
    }
}

#[cfg(test)]
mod tests;
