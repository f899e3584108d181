//! Why a subject could not be learned, what a scheduler should do about it, and how it is called on the wire.

use likeness_diffusion::{embedding::EmbeddingError, tokenizer::TokenizeError};
use likeness_proto::ErrorCode;

use crate::{Checkpoint, collective::CollectiveError};

/// Why a subject could not be learned. It fails alone: nothing of it touches the model or another subject.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// There is nothing to learn from.
    #[error("the subject has no photos; at least one is needed, four to twenty are better")]
    NoPhotos,
    /// A photo cannot be decoded.
    #[error("photo {name} cannot be decoded: {source}; upload it again")]
    BadPhoto {
        /// File name, or its number where it has none.
        name: String,
        /// What the decoder said.
        source: image::ImageError,
    },
    /// The photos were encoded at another size than the spec asks for.
    #[error("a photo is {found} px a side and others are {expected} px; decode them all at one resolution")]
    MixedSizes {
        /// Side of the first photo, pixels.
        expected: usize,
        /// Side of the one that differs.
        found: usize,
    },
    /// The initial phrase says nothing.
    #[error("the initial phrase {0:?} has no tokens; say what the subject is in a word or two, e.g. \"person\"")]
    InitEmpty(String),
    /// A sentence is no prompt.
    #[error("the sentence {sentence:?} cannot be encoded: {source}")]
    Sentence {
        /// The template or caption.
        sentence: String,
        /// What the tokenizer said.
        source: TokenizeError,
    },
    /// A vector would not be learned, because a sentence does not show it.
    #[error(
        "vector {vector} of {vectors} does not stand in the sentence {sentence:?}; it needs {{subject}} early enough to fit \
         into 77 tokens: shorten the caption or learn fewer vectors"
    )]
    VectorMissing {
        /// Its number, from 1.
        vector: usize,
        /// How many are learned.
        vectors: usize,
        /// The template or caption.
        sentence: String,
    },
    /// The loss, the gradient or the vectors became infinite or not a number.
    #[error(
        "{what} at step {step} (learning rate {rate}, last finite loss {last_loss}); try a lower learning rate, e.g. \
         {suggestion}, and look at the photos; the best vectors so far, of step {}, are kept in the checkpoint", .kept.best_step
    )]
    Diverged {
        /// What is not finite, and its value.
        what: String,
        /// Steps done before.
        step: u32,
        /// The spec's learning rate.
        rate: f64,
        /// A learning rate that is worth a try.
        suggestion: f64,
        /// Loss of the step before; NaN when there was none.
        last_loss: f32,
        /// The last good vectors.
        kept: Box<Checkpoint>,
    },
    /// The observer asked to stop. Nothing is lost: the checkpoint goes on where the run stopped.
    #[error("stopped after step {} as asked", .0.step)]
    Interrupted(Box<Checkpoint>),
    /// A checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The embedding file cannot be written.
    #[error(transparent)]
    Embedding(#[from] EmbeddingError),
    /// The group of ranks was lost that measured it; its last checkpoint was not.
    #[error("{0}; training goes on from its last checkpoint when the group stands again")]
    PeerLost(#[from] CollectiveError),
    /// A thread panicked, or there is none to be had.
    #[error("training ended unexpectedly: {0}")]
    Crashed(String),
    /// A tensor operation failed: shapes that do not fit, or no memory.
    #[error("a tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// Why a checkpoint is refused.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The bytes are no checkpoint.
    #[error("the checkpoint is damaged: {0}")]
    Damaged(String),
    /// It was made with another base model.
    #[error("the checkpoint belongs to base model {checkpoint}, loaded is {loaded}; load that model or start over")]
    OtherModel {
        /// Digest in the checkpoint.
        checkpoint: String,
        /// Digest of the loaded model.
        loaded: String,
    },
    /// It was made with another spec, other photos or another initial phrase.
    #[error(
        "the checkpoint belongs to another run ({checkpoint}) than this one ({run}): spec, photos or initial phrase differ; start over"
    )]
    OtherRun {
        /// Digest in the checkpoint.
        checkpoint: String,
        /// Digest of this run.
        run: String,
    },
}

/// What a scheduler does with a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Another attempt may go better.
    Retry,
    /// It would end the same way.
    Fail,
    /// Nobody waits for it any more, or a successor has the checkpoint.
    Drop,
}

impl TrainError {
    /// What to do about it. Training is deterministic, so only what comes from the machine is worth another attempt.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::NoPhotos
            | Self::BadPhoto { .. }
            | Self::MixedSizes { .. }
            | Self::InitEmpty(_)
            | Self::Sentence { .. }
            | Self::VectorMissing { .. }
            | Self::Diverged { .. }
            | Self::Checkpoint(_)
            | Self::Embedding(_) => Verdict::Fail,
            Self::PeerLost(_) | Self::Crashed(_) | Self::Tensor(_) => Verdict::Retry,
            Self::Interrupted(_) => Verdict::Drop,
        }
    }

    /// The same for each of many subjects that one fault ended.
    pub(crate) fn of_all(&self) -> Self {
        match self {
            Self::PeerLost(lost) => Self::PeerLost(lost.clone()),
            other => Self::Crashed(other.to_string()),
        }
    }

    /// Its name on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoPhotos => ErrorCode::NoPhotos,
            Self::BadPhoto { .. } => ErrorCode::ImageDamaged,
            Self::InitEmpty(_) => ErrorCode::InitEmpty,
            Self::Sentence { .. } => ErrorCode::InvalidArgument,
            Self::VectorMissing { .. } => ErrorCode::PromptTooLong,
            Self::Diverged { .. } => ErrorCode::Diverged,
            Self::PeerLost(_) => ErrorCode::PeerLost,
            Self::Checkpoint(CheckpointError::Damaged(_)) => ErrorCode::ObjectCorrupt,
            Self::Checkpoint(CheckpointError::OtherModel { .. }) => ErrorCode::ModelMismatch,
            Self::MixedSizes { .. }
            | Self::Checkpoint(CheckpointError::OtherRun { .. })
            | Self::Embedding(_)
            | Self::Interrupted(_)
            | Self::Crashed(_)
            | Self::Tensor(_) => ErrorCode::Internal,
        }
    }
}
