//! The embedding file: one tensor `[vectors, width]` named by its placeholder token; all else in the header.
//!
//! diffusers, AUTOMATIC1111 and ComfyUI read such a file as it is: they look at the one tensor and ignore the header's
//! `__metadata__`, where Likeness says which base model the rows belong to and how they came to be.

mod file;
#[cfg(test)]
mod tests;

use candle_core::{DType, Device, Tensor};

use crate::digest::ModelDigest;

/// No embedding file is larger: 64 rows of the widest text encoder are 1 MiB, and the facts are a few hundred bytes.
pub const MAX_BYTES: usize = 4 << 20;

/// A learned subject.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// The placeholder token: no spaces, at most 128 bytes.
    pub token: String,
    /// `(vectors, width)`, f32, all finite.
    pub rows: Tensor,
    /// How it came to be; none in a file of another program, which does not say.
    pub facts: Option<Facts>,
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
    /// Evaluation loss of the rows, finite.
    pub loss: f32,
    /// Seed of the training.
    pub seed: u64,
    /// Version of likeness.
    pub version: String,
    /// The phrase that initialised the rows.
    pub init: String,
}

/// Whether an embedding is known to belong to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// It was trained on this model.
    Same,
    /// The file does not say what it was trained on; another program wrote it.
    Unknown,
}

/// An embedding file is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddingError {
    /// More bytes than an embedding has.
    #[error("{bytes} bytes are too many for an embedding file; at most {MAX_BYTES} are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// No valid safetensors file.
    #[error("not a safetensors file: {0}")]
    Format(String),
    /// None or several tensors; a file for SDXL has two.
    #[error("an embedding file has one tensor, this one has {count}: {names}")]
    Tensors {
        /// How many.
        count: usize,
        /// Their names.
        names: String,
    },
    /// An element type that is not read.
    #[error("tensor {token:?} is of type {found}; accepted: F32, F16, BF16")]
    ElementType {
        /// The tensor.
        token: String,
        /// Its type.
        found: String,
    },
    /// No rows of token vectors.
    #[error("tensor {token:?} has shape {found:?}; expected [vectors, width] with 1 to {max_vectors} vectors", max_vectors = file::MAX_VECTORS)]
    Shape {
        /// The tensor.
        token: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// NaN or infinity among the values.
    #[error("tensor {token:?} has a value that is not finite in row {row}: its training has diverged")]
    NotFinite {
        /// The tensor.
        token: String,
        /// The first such row.
        row: usize,
    },
    /// A name that cannot be a placeholder.
    #[error("{token:?} cannot be a placeholder token; expected 1 to 128 bytes without spaces or control characters")]
    Token {
        /// The name.
        token: String,
    },
    /// Likeness wrote the header, but a fact is missing or makes no sense.
    #[error("the header says {key} = {value}; expected {expected}")]
    Fact {
        /// Its key.
        key: &'static str,
        /// What is there.
        value: String,
        /// What should be.
        expected: String,
    },
    /// The rows belong to another model.
    #[error(
        "the embedding was trained on base model {trained} ({name}), but {loaded} is loaded; load its model or train it again"
    )]
    OtherBase {
        /// Digest in the file.
        trained: ModelDigest,
        /// That model's name.
        name: String,
        /// Digest of the loaded model.
        loaded: ModelDigest,
    },
    /// The rows could not be read or made.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Embedding {
    /// The file's bytes, the same for the same embedding.
    ///
    /// # Errors
    /// A token, shape, value or fact that [`Self::from_bytes`] would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EmbeddingError> {
        let rows = self.rows.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let shape = rows.dims().to_vec();
        let values = rows.flatten_all()?.to_vec1::<f32>()?;
        file::check(&self.token, &shape, &values)?;
        if let Some(facts) = &self.facts {
            file::check_loss(facts.loss)?;
        }
        let metadata = self.facts.as_ref().map(|facts| file::metadata(&self.token, shape[0], facts));
        let bytes = file::write(&self.token, &shape, &values, metadata.as_ref());
        if bytes.len() > MAX_BYTES { Err(EmbeddingError::TooLarge { bytes: bytes.len() }) } else { Ok(bytes) }
    }

    /// Reads a file's bytes, which may be anything. `[width]` is read as one vector, half precision as f32.
    ///
    /// # Errors
    /// Says which of the file format's promises is broken; see [`EmbeddingError`].
    pub fn from_bytes(bytes: &[u8], device: &Device) -> Result<Self, EmbeddingError> {
        let parts = file::read(bytes)?;
        file::check(&parts.token, &parts.shape, &parts.values)?;
        let facts = file::facts(&parts.metadata, &parts.token, parts.shape[0])?;
        Ok(Self { rows: Tensor::from_vec(parts.values, parts.shape, device)?, token: parts.token, facts })
    }

    /// How many rows.
    pub fn vectors(&self) -> usize {
        self.rows.dims()[0]
    }

    /// Refuses an embedding of another base model, and says whether its own is known.
    ///
    /// # Errors
    /// Names both digests.
    pub fn check_base(&self, loaded: &ModelDigest) -> Result<Base, EmbeddingError> {
        match &self.facts {
            None => Ok(Base::Unknown),
            Some(facts) if facts.base_model == *loaded => Ok(Base::Same),
            Some(Facts { base_model, base_model_name, .. }) => Err(EmbeddingError::OtherBase {
                trained: base_model.clone(),
                name: base_model_name.clone(),
                loaded: loaded.clone(),
            }),
        }
    }
}
