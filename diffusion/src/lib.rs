//! The frozen Stable Diffusion: tokenizer, text encoder with a splice for learned rows, UNet, VAE, noise schedule,
//! samplers and embedding files. Knows tensors and files; knows nothing of jobs, networks or runtimes.

pub mod cache;
pub mod config;
pub mod digest;
pub mod embedding;
pub mod error;
pub mod footprint;
pub mod memory;
pub mod model;
pub mod noise;
pub mod render;
pub mod samplers;
pub mod schedule;
pub mod text_encoder;
pub mod tokenizer;
pub mod unet;
pub mod vae;

#[cfg(test)]
mod golden;
mod ops;
mod stored;
mod weights;

pub use cache::ModelCache;
pub use candle_core::{DType, Device, Result as TensorResult, Tensor};
pub use digest::ModelDigest;
pub use embedding::{Base, Embedding, EmbeddingError, Facts};
pub use error::LoadError;
pub use footprint::Footprint;
pub use model::{BaseModel, Computing};
pub use noise::{NoiseKey, Purpose};
pub use ops::conv::Arithmetic;
pub use render::{Look, Picture, RenderError, RgbPixels, Shot, Start, render};
pub use samplers::{BadSteps, Sampler, SamplerKind, UnknownSampler};
pub use schedule::{NoiseSchedule, Prediction};
pub use text_encoder::TextEncoder;
pub use tokenizer::{Placeholder, Prompt, Slot, TokenizeError, Tokenizer};
pub use unet::{Context, Unet};
pub use vae::Vae;
