//! The CLIP tokenizer: byte-level BPE of vocab.json and merges.txt.

use std::path::Path;

use crate::error::LoadError;

/// A token of the prompt that stands for learned rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placeholder {
    /// As it is written in prompts, e.g. `<subject>`.
    pub token: String,
    /// How many learned rows it stands for.
    pub vectors: usize,
}

/// A prompt as the text encoder reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prompt {
    /// 77 ids: BOS, text, EOS, padding. Placeholder slots hold any valid id.
    pub ids: Vec<u32>,
    /// Where learned rows replace the frozen table's.
    pub slots: Vec<Slot>,
    /// Text that did not fit into 77 tokens.
    pub cut: Option<String>,
}

/// One learned row in a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Which of the 77 positions.
    pub position: usize,
    /// Which row of the learned block.
    pub vector: usize,
}

/// A prompt cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizeError {}

/// CLIP's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {}

impl Tokenizer {
    /// Reads `vocab.json` and `merges.txt` of `dir`.
    ///
    /// # Errors
    /// Names the file that is missing or invalid.
    pub fn load(_dir: &Path) -> Result<Self, LoadError> {
        unimplemented!("being written")
    }

    /// Encodes a prompt; each occurrence of the placeholder's token becomes its slots.
    ///
    /// # Errors
    /// See [`TokenizeError`].
    pub fn encode(&self, _text: &str, _placeholder: Option<&Placeholder>) -> Result<Prompt, TokenizeError> {
        unimplemented!("being written")
    }

    /// The ids of a phrase without BOS and EOS.
    pub fn phrase(&self, _text: &str) -> Vec<u32> {
        unimplemented!("being written")
    }
}
