//! The frozen Stable Diffusion: tokenizer, text encoder with a splice for learned rows, UNet, VAE, noise schedule,
//! samplers and embedding files. Knows tensors and files; knows nothing of jobs, networks or runtimes.

pub mod digest;
pub mod embedding;
pub mod error;
pub mod model;
pub mod noise;
pub mod render;
pub mod samplers;
pub mod schedule;
pub mod text_encoder;
pub mod tokenizer;
pub mod unet;
pub mod vae;

pub use candle_core::{Device, Tensor};
pub use digest::ModelDigest;
pub use embedding::{Embedding, Facts};
pub use error::LoadError;
pub use model::BaseModel;
pub use noise::{NoiseKey, Purpose};
pub use render::{Look, RenderError, RgbPixels, Shot, Start, render};
pub use samplers::SamplerKind;
pub use schedule::NoiseSchedule;
pub use text_encoder::TextEncoder;
pub use tokenizer::{Placeholder, Prompt, Slot, Tokenizer};
pub use unet::Unet;
pub use vae::Vae;
