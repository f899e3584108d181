//! A sampler node: renders avatars with learned embeddings and makes contact sheets.
//!
//! Knows no SQL and no training. [`picture`], [`prompts`] and [`sheet`] need no service.

mod assemble;
mod batch;
mod cache;
mod engine;
mod failure;
mod metrics;
pub mod picture;
pub mod prompts;
mod render;
mod sampler;
pub mod sheet;

pub use sampler::{Options, Sampler};
