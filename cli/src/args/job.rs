//! Arguments that say what a job is, and what a single picture is.

use clap::Args;
use likeness_proto::{Capacity, Parameterization, RENDER_DEFAULTS, Scheduler, Templates, v1};
use std::path::PathBuf;

/// Arguments of `submit`.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// What is shown.
    #[command(flatten)]
    pub photos: PhotosArgs,
    /// Prompts file: what to draw
    #[arg(long, value_name = "FILE")]
    pub prompts: PathBuf,
    /// How to learn it.
    #[command(flatten)]
    pub train: TrainArgs,
    /// Digest of the base model to use, sha256:… [default: the one that the server has]
    #[arg(long, value_name = "DIGEST", default_value = "", hide_default_value = true)]
    pub base_model: String,
    /// Names this request: sent twice, it is accepted once [default: a new one, kept over the retries]
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Before your other jobs where it is higher, -100 to 100
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true)]
    pub priority: i32,
    /// Follow the job until it has ended
    #[arg(long)]
    pub wait: bool,
}

/// Whose avatars to make.
#[derive(Debug, Args)]
pub struct PhotosArgs {
    /// Folder with the photos of one subject; `NAME.txt` beside `NAME.png` is its caption
    #[arg(required_unless_present_any = ["dataset", "embedding"], conflicts_with_all = ["dataset", "embedding"], requires = "subject")]
    pub photos: Option<PathBuf>,
    /// Folder with a folder of photos for each subject
    #[arg(long, value_name = "DIR", conflicts_with = "embedding")]
    pub dataset: Option<PathBuf>,
    /// Finished subject to draw again, without learning; may be given more than once
    #[arg(long, value_name = "SUBJECT")]
    pub embedding: Vec<String>,
    /// Name of the subject: a–z, 0–9, `-`, `_`, `.`
    #[arg(long, value_name = "NAME", requires = "photos")]
    pub subject: Option<String>,
    /// What the subject is before anything is learned, like "person"
    #[arg(long, value_name = "PHRASE", required_unless_present = "embedding")]
    pub init: Option<String>,
    /// Who says that the photos may be used
    #[arg(long, value_name = "WHO")]
    pub attest_by: Option<String>,
    /// In which capacity
    #[arg(long, value_name = "self|guardian|licensee")]
    pub attest_as: Option<Capacity>,
    /// What is attested, in that person's own words
    #[arg(long, value_name = "TEXT")]
    pub statement: Option<String>,
}

/// How to learn a subject. What is left out takes the server's default.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Learning")]
pub struct TrainArgs {
    /// Vectors to learn
    #[arg(long, value_name = "N")]
    pub vectors: Option<u32>,
    /// Steps at most
    #[arg(long, value_name = "N")]
    pub steps: Option<u32>,
    /// Samples in a step
    #[arg(long, value_name = "N")]
    pub batch: Option<u32>,
    /// Seed of all that is drawn by chance while learning
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Side of the square that photos are cropped to, pixels
    #[arg(long, value_name = "PX")]
    pub resolution: Option<u32>,
    /// Show photos mirrored half of the time
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub flip: Option<bool>,
    /// Sentences to learn in, where photos have no caption
    #[arg(long, value_name = "object|portrait")]
    pub templates: Option<Templates>,
    /// How the vectors are parameterised
    #[arg(long, value_name = "direction|adamw")]
    pub parameterization: Option<Parameterization>,
    /// Learning rate per step of the effective batch
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
    /// Steps between two measurements of the evaluation set
    #[arg(long, value_name = "N")]
    pub evaluate_every: Option<u32>,
    /// Steps between two checkpoints
    #[arg(long, value_name = "N")]
    pub checkpoint_every: Option<u32>,
    /// Pictures drawn while it is learned, evenly spaced and at least 10 steps apart, 0 to 16; 0: none [default: 7]
    #[arg(long, value_name = "N")]
    pub previews: Option<u32>,
}

impl TrainArgs {
    /// As it goes over the wire; what was not given is absent.
    #[must_use]
    pub fn spec(&self) -> v1::TrainSpec {
        v1::TrainSpec {
            max_steps: self.steps,
            batch_size: self.batch,
            seed: self.seed,
            resolution: self.resolution,
            flip: self.flip,
            templates: self.templates.map(Templates::encode),
            method: Some(v1::train_spec::Method::TextualInversion(v1::TextualInversion {
                vectors: self.vectors,
                parameterization: self.parameterization.map(Parameterization::encode),
                learning_rate: self.learning_rate,
            })),
            evaluate_every: self.evaluate_every,
            checkpoint_every: self.checkpoint_every,
            previews: self.previews,
        }
    }

    /// Whether any was given.
    #[must_use]
    pub fn any(&self) -> bool {
        let Self { vectors, steps, batch, resolution, evaluate_every, checkpoint_every, previews, .. } = self;
        let counts = [vectors, steps, batch, resolution, evaluate_every, checkpoint_every, previews];
        counts.iter().any(|count| count.is_some())
            || self.seed.is_some()
            || self.flip.is_some()
            || self.templates.is_some()
            || self.parameterization.is_some()
            || self.learning_rate.is_some()
    }
}

/// Arguments of `render`.
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// Embedding file of the subject; without one, {subject} cannot be used
    #[arg(long, value_name = "FILE")]
    pub embedding: Option<PathBuf>,
    /// What to draw; {subject} or the embedding's token is the subject
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// What not to draw
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub negative: String,
    /// Seed of the first noise
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// First noise instead of the seed's: a safetensors file with one tensor (1, channels, height, width)
    #[arg(long, value_name = "FILE")]
    pub latents: Option<PathBuf>,
    /// Denoising steps
    #[arg(long, value_name = "N", default_value_t = RENDER_DEFAULTS.steps)]
    pub steps: u32,
    /// Classifier-free guidance; 1: none
    #[arg(long, value_name = "SCALE", default_value_t = RENDER_DEFAULTS.guidance)]
    pub guidance: f64,
    /// The sampler that turns noise into a picture
    #[arg(long, value_name = "ddim|euler_ancestral|unipc", default_value_t = RENDER_DEFAULTS.scheduler)]
    pub scheduler: Scheduler,
    /// Pixels of both sides [default: the model's own]
    #[arg(long, value_name = "PX", conflicts_with_all = ["width", "height"])]
    pub size: Option<u32>,
    /// Pixels
    #[arg(long, value_name = "PX")]
    pub width: Option<u32>,
    /// Pixels
    #[arg(long, value_name = "PX")]
    pub height: Option<u32>,
    /// Picture to write
    #[arg(long, value_name = "PNG")]
    pub out: PathBuf,
}
