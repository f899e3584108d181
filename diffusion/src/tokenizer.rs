//! The CLIP tokenizer: byte-level BPE of vocab.json and merges.txt, as transformers' `CLIPTokenizerFast` has it.

mod files;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::Path;

use crate::error::LoadError;
use files::Special;

/// A token of the prompt that stands for learned rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placeholder {
    /// As it is written in prompts, e.g. `<subject>`; upper and lower case differ.
    pub token: String,
    /// How many learned rows it stands for.
    pub vectors: usize,
}

/// A prompt as the text encoder reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prompt {
    /// 77 ids: BOS, text, EOS, padding. Placeholder slots hold any valid id.
    pub ids: Vec<u32>,
    /// Where learned rows replace the frozen table's, by position.
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
pub enum TokenizeError {
    /// A placeholder stands, wholly or partly, behind the last token that fits.
    #[error(
        "placeholder {token} is cut off: it would end at token {end} of the prompt, and only {room} fit; \
         shorten the text before it"
    )]
    PlaceholderCut {
        /// The placeholder.
        token: String,
        /// Its last token, from 1.
        end: usize,
        /// How many tokens fit between BOS and EOS.
        room: usize,
    },
    /// A placeholder that cannot stand in a prompt.
    #[error(
        "placeholder {token:?} of {vectors} vectors cannot stand in a prompt; expected a token and 1 to {room} vectors"
    )]
    BadPlaceholder {
        /// The placeholder.
        token: String,
        /// Its vectors.
        vectors: usize,
        /// How many tokens fit between BOS and EOS.
        room: usize,
    },
    /// The text has no encoding.
    #[error("cannot tokenize {text:?}: {reason}")]
    Text {
        /// The piece of text.
        text: String,
        /// What the tokenizer says.
        reason: String,
    },
}

/// CLIP's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    pieces: tokenizers::Tokenizer,
    special: Special,
}

/// One token of a prompt: its id, the row that it stands for, and its bytes in the text.
struct Token {
    id: u32,
    vector: Option<usize>,
    bytes: Range<usize>,
}

impl Tokenizer {
    /// Reads `vocab.json`, `merges.txt` and the special tokens (`tokenizer_config.json`, `special_tokens_map.json`) of `dir`.
    ///
    /// # Errors
    /// Names the file that is missing or invalid.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        let (pieces, special) = files::load(dir)?;
        Ok(Self { pieces, special })
    }

    /// How many ids a prompt has, BOS and EOS included: 77 for every CLIP.
    pub fn length(&self) -> usize {
        self.special.length
    }

    /// Encodes a prompt; each occurrence of the placeholder's token becomes its slots. Text past the last token that fits is
    /// left out and told in `cut`.
    ///
    /// # Errors
    /// A placeholder that does not wholly fit, or that is empty; see [`TokenizeError`].
    pub fn encode(&self, text: &str, placeholder: Option<&Placeholder>) -> Result<Prompt, TokenizeError> {
        let room = self.length() - 2;
        let tokens = self.tokens(text, placeholder)?;
        let (kept, left) = tokens.split_at(tokens.len().min(room));
        if let (Some(last), Some(placeholder)) = (left.iter().rposition(|token| token.vector.is_some()), placeholder) {
            return Err(TokenizeError::PlaceholderCut { token: placeholder.token.clone(), end: room + last + 1, room });
        }

        let mut ids = vec![self.special.start];
        ids.extend(kept.iter().map(|token| token.id));
        ids.push(self.special.end);
        ids.resize(self.length(), self.special.pad);
        let slot = |(i, token): (usize, &Token)| token.vector.map(|vector| Slot { position: i + 1, vector });
        let cut = left.first().map(|token| text.get(token.bytes.start..).unwrap_or(text).trim().to_owned());
        Ok(Prompt { ids, slots: kept.iter().enumerate().filter_map(slot).collect(), cut })
    }

    /// The ids of a phrase without BOS and EOS; empty if the phrase says nothing.
    pub fn phrase(&self, text: &str) -> Vec<u32> {
        // Every byte is in the vocabulary, which loading has checked, so this does not fail.
        self.plain(text, 0).unwrap_or_default().into_iter().map(|token| token.id).collect()
    }

    fn tokens(&self, text: &str, placeholder: Option<&Placeholder>) -> Result<Vec<Token>, TokenizeError> {
        let Some(placeholder) = placeholder else { return self.plain(text, 0) };
        let (token, vectors, room) = (&placeholder.token, placeholder.vectors, self.length() - 2);
        if token.trim().is_empty() || !(1..=room).contains(&vectors) {
            return Err(TokenizeError::BadPlaceholder { token: token.clone(), vectors, room });
        }
        let (mut tokens, mut done) = (Vec::new(), 0);
        for (start, found) in text.match_indices(token.as_str()) {
            let end = start + found.len();
            tokens.extend(self.plain(&text[done..start], done)?);
            let slot = |vector| Token { id: self.special.end, vector: Some(vector), bytes: start..end };
            tokens.extend((0..vectors).map(slot));
            done = end;
        }
        tokens.extend(self.plain(&text[done..], done)?);
        Ok(tokens)
    }

    /// The tokens of a piece of text that begins at byte `offset` of the prompt.
    fn plain(&self, text: &str, offset: usize) -> Result<Vec<Token>, TokenizeError> {
        let failed =
            |reason: tokenizers::Error| TokenizeError::Text { text: text.to_owned(), reason: reason.to_string() };
        let encoding = self.pieces.encode(text, false).map_err(failed)?;
        let ids = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(ids.map(|(&id, (from, to))| Token { id, vector: None, bytes: offset + from..offset + to }).collect())
    }
}
