//! CLIP's text encoder, with a splice for learned rows.

use candle_core::{Result, Tensor};

use crate::tokenizer::Prompt;

/// The frozen CLIP text encoder.
#[derive(Debug)]
pub struct TextEncoder {}

impl TextEncoder {
    /// Width d of its token rows and of the context.
    pub fn width(&self) -> usize {
        unimplemented!("being written")
    }

    /// Median L2 norm of the token table's rows.
    pub fn vocabulary_norm(&self) -> f32 {
        unimplemented!("being written")
    }

    /// Rows `(n, d)` of the frozen token table.
    ///
    /// # Errors
    /// An id that the table does not have.
    pub fn rows(&self, _ids: &[u32]) -> Result<Tensor> {
        unimplemented!("being written")
    }

    /// The context `(b, 77, d)` of `b` prompts, differentiable with respect to `learned` `(n, d)`.
    ///
    /// # Errors
    /// A slot without its row, an id that the table does not have, prompts of different lengths.
    pub fn forward(&self, _prompts: &[Prompt], _learned: Option<&Tensor>) -> Result<Tensor> {
        unimplemented!("being written")
    }
}
