//! Arguments of `bench`. Names and defaults are those of `tests/peer/peer.py`, so that one command line fits both.

use crate::bench::{Known, Precision, THREADS};
use clap::builder::TypedValueParser;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// What `bench` measures or makes.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Measure the steps of a textual inversion
    Train(BenchTrainArgs),
    /// Measure the rendering of a batch
    Render(BenchRenderArgs),
    /// Measure subjects one after the other against the same subjects in one pack
    Pack(BenchPackArgs),
    /// Compare the device that is set with the CPU: a gradient and a picture of both
    Parity(BenchParityArgs),
    /// Measure what adding up over ranks takes
    AllReduce(BenchAllReduceArgs),
    /// Measure a coordinator: jobs that are submitted, trainings that are leased, renewed and completed
    Coordinator(BenchCoordinatorArgs),
    /// Write a model of a known architecture with seeded random weights, to measure without a download
    MakeModel(MakeModelArgs),
}

impl BenchCommand {
    /// The flags of this command that are settings. A measurement takes as many threads as the peer unless a flag says otherwise.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let checkpointing = matches!(self, Self::Train(BenchTrainArgs { checkpointing: true, .. }));
        vec![("threads", THREADS.to_string()), ("checkpointing", checkpointing.to_string())]
    }
}

/// Arguments of `bench train`.
#[derive(Debug, Args)]
pub struct BenchTrainArgs {
    /// Folder with photos
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// What the subject is before anything is learned
    #[arg(long, value_name = "PHRASE", default_value = "person")]
    pub initializer: String,
    /// Steps that are measured
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub steps: u32,
    /// Steps before them
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub warmup: u32,
    /// Samples in a step
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub batch: u32,
    /// Vectors to learn
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub vectors: u32,
    /// Side of the square that photos are cropped to, pixels [default: the model's own]
    #[arg(long, value_name = "PX")]
    pub size: Option<u32>,
    /// Keep only the inputs of the UNet's blocks and compute the rest again on the way back
    #[arg(long)]
    pub checkpointing: bool,
    /// Learning rate of AdamW
    #[arg(long, value_name = "RATE", default_value_t = 5e-3)]
    pub lr: f64,
    /// Seed of photos, noise and timesteps
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// Arguments of `bench coordinator`.
#[derive(Debug, Args)]
pub struct BenchCoordinatorArgs {
    /// Where it remembers, sqlite:FILE or postgres://…, empty yet [default: a file in a temporary folder]
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Trainings in the queue when it begins
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub queued: usize,
    /// Workers that lease, renew and complete, each one training at a time
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub workers: usize,
    /// Clients that submit meanwhile, each four jobs a second
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub clients: usize,
    /// Tenants whose jobs they are
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub tenants: u32,
    /// Trainings that all workers together begin in a second at most [default: as many as they can]
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// Streams that watch a job meanwhile
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub watches: usize,
    /// How long
    #[arg(long, value_name = "S", default_value_t = 30)]
    pub seconds: u64,
}

/// Arguments of `bench render`.
#[derive(Debug, Args)]
pub struct BenchRenderArgs {
    /// What to draw
    #[arg(long, value_name = "TEXT", default_value = "a portrait of a person")]
    pub prompt: String,
    /// Pictures in the batch
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub images_per_batch: u32,
    /// DDIM steps
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub steps: u32,
    /// Classifier-free guidance; 1: none
    #[arg(long, value_name = "SCALE", default_value_t = 7.5)]
    pub guidance: f64,
    /// Pixels of both sides [default: the model's own]
    #[arg(long, value_name = "PX")]
    pub size: Option<u32>,
    /// Seed of the first picture; each other has the next
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Times that the batch is rendered
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeats: u32,
}

/// Arguments of `bench pack`.
#[derive(Debug, Args)]
pub struct BenchPackArgs {
    /// Folder with a folder of photos per subject [default: the bundled subjects]
    #[arg(long, value_name = "DIR")]
    pub dataset: Option<PathBuf>,
    /// What each subject is before anything is learned
    #[arg(long, value_name = "PHRASE", default_value = "person")]
    pub initializer: String,
    /// Subjects to learn; the folders are taken again, under other seeds, until there are as many
    #[arg(long, value_name = "N", default_value = "8")]
    pub subjects: NonZeroUsize,
    /// Subjects at a time in the pack [default: all]
    #[arg(long, value_name = "N")]
    pub slots: Option<NonZeroUsize>,
    /// Samples of a subject in a step
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub batch: u32,
    /// Steps of a subject at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub steps: u32,
}

/// Arguments of `bench parity`.
#[derive(Debug, Args)]
pub struct BenchParityArgs {
    /// Folder with photos
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// Samples of the gradient
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub batch: u32,
}

/// Arguments of `bench all-reduce`.
#[derive(Debug, Args)]
pub struct BenchAllReduceArgs {
    /// What the ranks are
    #[arg(long)]
    pub backend: Backend,
    /// Ranks
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = counts(1, 64))]
    pub ranks: usize,
    /// Bytes that each rank adds, rounded down to numbers of four
    #[arg(long, value_name = "B", default_value_t = 65_536, value_parser = counts(0, 64 << 20))]
    pub bytes: usize,
    /// Calls that are measured
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = counts(1, 1_000_000))]
    pub calls: usize,
    /// Take part in what the process measures that listens there
    #[arg(long, hide = true, requires = "rank")]
    pub join: Option<SocketAddr>,
    /// As this rank
    #[arg(long, hide = true, default_value_t = 0)]
    pub rank: usize,
}

/// What ranks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Threads of one process.
    Local,
    /// Processes, by way of the first.
    Grpc,
    /// Threads of one process, a GPU each from the one that is set on.
    Nccl,
}

fn counts(least: u64, most: u64) -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64).range(least..=most).map(|count| count as usize)
}

/// Arguments of `bench make-model`.
#[derive(Debug, Args)]
pub struct MakeModelArgs {
    /// Its architecture
    #[arg(long)]
    pub arch: Known,
    /// How its weights are stored
    #[arg(long, default_value = "fp32")]
    pub dtype: Precision,
    /// Seed of its weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Folder to make
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}
