//! A whole base model from its directory.

use std::path::Path;

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use tracing::warn;

use crate::cache::ModelCache;
use crate::digest::{ModelDigest, sha256};
use crate::error::LoadError;
use crate::ops::composed::Place;
use crate::ops::conv::Arithmetic;
use crate::schedule::NoiseSchedule;
use crate::text_encoder::TextEncoder;
use crate::tokenizer::{Prompt, Tokenizer};
use crate::unet::{Context, Unet};
use crate::vae::Vae;

/// A frozen Stable Diffusion 1.x or 2.x, read from a directory in the Hugging Face layout.
#[derive(Debug)]
pub struct BaseModel {
    /// Words to ids.
    pub tokenizer: Tokenizer,
    /// Ids to context.
    pub text: TextEncoder,
    /// Noisy latents to noise or velocity.
    pub unet: Unet,
    /// Pixels to latents and back.
    pub vae: Vae,
    /// The training schedule.
    pub schedule: NoiseSchedule,
    /// Its identity.
    pub digest: ModelDigest,
    /// The directory's name, for people.
    pub name: String,
    /// Where its tensors live.
    pub device: Device,
    /// Bytes of its weights that are pages of a [`ModelCache`]: in memory when they are used, unlike the others.
    pub mapped: u64,
}

/// How a network computes. Neither changes what is learned by more than rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Computing {
    /// How 3×3 convolutions are computed.
    pub arithmetic: Arithmetic,
    /// Whether the UNet keeps only the inputs of its blocks for the way back, and runs each again: less memory for more time, the
    /// same bits.
    pub checkpointing: bool,
    /// What text encoder and UNet compute in. f32 on the CPU has kernels of its own; a GPU takes bf16 as well, f64 is for
    /// comparisons. The VAE takes f32 where this is narrower. Learned rows, losses and latents between two steps are f32 always.
    pub precision: DType,
}

impl Default for Computing {
    fn default() -> Self {
        Self { arithmetic: Arithmetic::default(), checkpointing: false, precision: DType::F32 }
    }
}

impl Computing {
    pub(crate) fn place(&self, device: &Device) -> Place {
        Place { device: device.clone(), dtype: self.precision }
    }
}

impl BaseModel {
    /// Loads and checks everything.
    ///
    /// # Errors
    /// Every missing, surplus or misshapen tensor and every missing or corrupt file is named.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, LoadError> {
        Self::load_with(dir, Computing::default(), device)
    }

    /// As [`Self::load`], computing as `computing` says.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(dir: &Path, computing: Computing, device: &Device) -> Result<Self, LoadError> {
        Self::load_cached(dir, computing, device, None)
    }

    /// As [`Self::load_with`], by what an earlier start has left in `cache`, if there is one, and leaving there what it lacks: its
    /// weights are pages of files there. The model is the same to the bit.
    ///
    /// # Errors
    /// As [`Self::load`]; a cache that cannot be used is none.
    pub fn load_cached(
        dir: &Path,
        computing: Computing,
        device: &Device,
        cache: Option<&ModelCache>,
    ) -> Result<Self, LoadError> {
        if !dir.is_dir() {
            let wanted = "such a directory".to_owned();
            return Err(LoadError::NoFile { folder: dir.to_owned(), wanted });
        }
        let (heavy, light) = rayon::join(
            || {
                rayon::join(
                    || Unet::load(&dir.join("unet"), computing, device, cache),
                    || Vae::load(&dir.join("vae"), computing, device, cache),
                )
            },
            || {
                rayon::join(
                    || TextEncoder::load(&dir.join("text_encoder"), computing, device, cache),
                    || (digest(dir, cache), Tokenizer::load(&dir.join("tokenizer"))),
                )
            },
        );
        let ((unet, vae), (text, (digest, tokenizer))) = ((heavy.0?, heavy.1?), (light.0?, light.1));
        let (digest, tokenizer) = (digest?, tokenizer?);
        if let Some(cache) = cache
            && let Err(error) = cache.keep()
        {
            warn!(%error, folder = %cache.folder().display(), "weights cannot be written, they are prepared again in memory");
            drop((unet, vae, text));
            return Self::load_cached(dir, computing, device, None);
        }
        let model = Self {
            tokenizer,
            schedule: NoiseSchedule::load(&dir.join("scheduler").join("scheduler_config.json"))?,
            text,
            unet,
            vae,
            digest,
            name: name(dir),
            device: device.clone(),
            mapped: cache.map_or(0, ModelCache::mapped),
        };
        model.check(dir)?;
        Ok(model)
    }

    /// Bytes of the networks in `dir`, as they are stored: of their weights, all but a few.
    ///
    /// # Errors
    /// A file that is missing.
    pub fn stored_bytes(dir: &Path) -> Result<u64, LoadError> {
        let bytes = |file: String| match dir.join(&file).metadata() {
            Ok(metadata) => Ok(metadata.len()),
            Err(source) => Err(LoadError::Io { path: dir.join(file), source }),
        };
        networks(dir)?.into_iter().map(bytes).sum()
    }

    /// What the UNet looks at when it is to draw a prompt, whose slots name rows of `learned` `(n, d)`.
    ///
    /// # Errors
    /// As [`TextEncoder::forward`].
    pub fn context(&self, prompt: &Prompt, learned: Option<&Tensor>) -> TensorResult<Context> {
        self.unet.context(&self.text.encode(prompt, learned)?)
    }

    /// The side, in pixels, that the model was trained at; 512 where its configuration does not say.
    pub fn native_size(&self) -> usize {
        self.unet.config().sample_size.map_or(512, |latents| latents * self.vae.factor())
    }

    /// The side of the latents of that size.
    pub fn latent_side(&self) -> usize {
        self.native_size() / self.vae.factor()
    }

    /// The parts must fit one another.
    fn check(&self, dir: &Path) -> Result<(), LoadError> {
        let unet = self.unet.config();
        let same = |what: &str, unet: usize, other: usize, whose: &str| match unet == other {
            true => Ok(()),
            false => Err(LoadError::Mismatch {
                path: dir.to_owned(),
                reason: format!("the UNet's {what} is {unet}, the {whose} {other}"),
            }),
        };
        same("cross_attention_dim", unet.cross_attention_dim, self.text.width(), "text encoder's hidden_size is")?;
        same("in_channels", unet.in_channels, self.vae.channels(), "VAE's latent_channels is")?;
        same("out_channels", unet.out_channels, unet.in_channels, "UNet's own in_channels is")
    }
}

fn name(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    whole.file_name().unwrap_or(whole.as_os_str()).to_string_lossy().into_owned()
}

/// The files of text encoder, UNet and VAE, within `dir`.
fn networks(dir: &Path) -> Result<Vec<String>, LoadError> {
    let networks = [
        ("text_encoder", TextEncoder::files(&dir.join("text_encoder"))?),
        ("unet", Unet::files(&dir.join("unet"))?),
        ("vae", Vae::files(&dir.join("vae"))?),
    ];
    let named = |(folder, files): &(&str, Vec<String>)| -> Vec<String> {
        files.iter().map(|file| format!("{folder}/{file}")).collect()
    };
    Ok(networks.iter().flat_map(named).collect())
}

/// Over every file that [`BaseModel::load`] reads.
fn digest(dir: &Path, cache: Option<&ModelCache>) -> Result<ModelDigest, LoadError> {
    let there = |file: &String| dir.join("tokenizer").join(file).is_file();
    let optional = ["tokenizer_config.json", "special_tokens_map.json"].map(String::from).into_iter().filter(there);
    let tokenizer = ["vocab.json", "merges.txt"].map(String::from).into_iter().chain(optional);
    let mut files = networks(dir)?;
    files.push("scheduler/scheduler_config.json".to_owned());
    files.extend(tokenizer.map(|file| format!("tokenizer/{file}")));
    let one = |path: &Path| match cache {
        Some(cache) => cache.sha256(path),
        None => sha256(path).map(hex::encode),
    };
    ModelDigest::of_files(dir, &files, one)
}
