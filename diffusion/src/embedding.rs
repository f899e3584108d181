//! The embedding file: one tensor `[vectors, width]` named by its placeholder token; all else in the header.

use candle_core::{Device, Tensor};

use crate::digest::ModelDigest;

/// A learned subject.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// The placeholder token.
    pub token: String,
    /// `(vectors, width)`, f32.
    pub rows: Tensor,
    /// How it came to be.
    pub facts: Facts,
}

/// What the header of an embedding file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The base model it was trained on.
    pub base_model: ModelDigest,
    /// That model's folder name.
    pub base_model_name: String,
    /// Training steps behind the rows.
    pub steps: u64,
    /// Evaluation loss of the rows.
    pub loss: f32,
    /// Seed of the training.
    pub seed: u64,
    /// Version of likeness.
    pub version: String,
    /// The phrase that initialised the rows.
    pub init: String,
}

/// An embedding file is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddingError {}

impl Embedding {
    /// The file's bytes.
    ///
    /// # Errors
    /// See [`EmbeddingError`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, EmbeddingError> {
        unimplemented!("being written")
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// See [`EmbeddingError`].
    pub fn from_bytes(_bytes: &[u8], _device: &Device) -> Result<Self, EmbeddingError> {
        unimplemented!("being written")
    }

    /// Refuses an embedding of another base model.
    ///
    /// # Errors
    /// Names both digests.
    pub fn check_base(&self, _loaded: &ModelDigest) -> Result<(), EmbeddingError> {
        unimplemented!("being written")
    }
}
