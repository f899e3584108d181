//! The files of a CLIP tokenizer's folder.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use crate::error::LoadError;

/// CLIP's words: contractions, runs of letters, single digits, runs of anything else that is no space.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Positions of every CLIP text encoder of Stable Diffusion.
const CLIP_LENGTH: usize = 77;

/// transformers reads no more merges than these, whatever follows in the file.
const MAX_MERGES: usize = 49152 - 256 - 2;

/// The tokens around the text.
#[derive(Debug)]
pub(super) struct Special {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) pad: u32,
    pub(super) length: usize,
}

/// `tokenizer_config.json` and `special_tokens_map.json`, which share their keys.
#[derive(Deserialize, Default)]
struct Names {
    bos_token: Option<Name>,
    eos_token: Option<Name>,
    pad_token: Option<Name>,
    unk_token: Option<Name>,
    model_max_length: Option<f64>,
    added_tokens_decoder: Option<serde_json::Value>,
}

/// A token as a word or with its flags.
#[derive(Deserialize)]
#[serde(untagged)]
enum Name {
    Word(String),
    Flags { content: String },
}

impl Name {
    fn or(name: Option<Self>, default: &str) -> String {
        match name {
            Some(Self::Word(content) | Self::Flags { content }) => content,
            None => default.to_owned(),
        }
    }
}

pub(super) fn load(dir: &Path) -> Result<(tokenizers::Tokenizer, Special), LoadError> {
    let vocabulary: HashMap<String, u32> = json(&dir.join("vocab.json"))?;
    let names = names(dir)?;
    let invalid = |reason: String| LoadError::Tokenizer { path: dir.to_owned(), reason };
    let id = |token: &str| {
        vocabulary.get(token).copied().ok_or_else(|| invalid(format!("special token {token:?} is not in vocab.json")))
    };
    let (start, end) = (Name::or(names.bos_token, "<|startoftext|>"), Name::or(names.eos_token, "<|endoftext|>"));
    let (pad, unknown) = (Name::or(names.pad_token, &end), Name::or(names.unk_token, &end));
    let special =
        Special { start: id(&start)?, end: id(&end)?, pad: id(&pad)?, length: length(names.model_max_length) };
    id(&unknown)?;
    let specials = [start, end, pad, unknown.clone()].map(|token| AddedToken::from(token, true).normalized(true));

    let merges = merges(&dir.join("merges.txt"), &vocabulary)?;
    let tokenizer = build(vocabulary, merges, unknown, specials).map_err(|error| invalid(error.to_string()))?;
    Ok((tokenizer, special))
}

/// What transformers' `CLIPConverter` builds. BOS, EOS and padding are put around its ids by the caller.
fn build(
    vocabulary: HashMap<String, u32>,
    merges: Vec<(String, String)>,
    unknown: String,
    specials: [AddedToken; 4],
) -> tokenizers::Result<tokenizers::Tokenizer> {
    let model = BPE::builder()
        .vocab_and_merges(vocabulary.into_iter().collect::<Vocab>(), merges)
        .end_of_word_suffix("</w>".to_owned())
        .unk_token(unknown)
        .build()?;
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
    let words = Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true)?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_normalizer(Some(Normalizers::new(vec![NFC.into(), spaces.into(), Lowercase.into()])))?;
    tokenizer
        .with_pre_tokenizer(Some(PreTokenizers::new(vec![words.into(), ByteLevel::new(false, true, true).into()])));
    tokenizer.add_special_tokens(specials)?;
    Ok(tokenizer)
}

/// The special tokens' names. As transformers has it, the map overrules the configuration unless that lists its added tokens.
fn names(dir: &Path) -> Result<Names, LoadError> {
    let optional = |file: &str| {
        let path = dir.join(file);
        if path.exists() { json::<Names>(&path) } else { Ok(Names::default()) }
    };
    let (config, map) = (optional("tokenizer_config.json")?, optional("special_tokens_map.json")?);
    if config.added_tokens_decoder.is_some() {
        return Ok(config);
    }
    Ok(Names {
        bos_token: map.bos_token.or(config.bos_token),
        eos_token: map.eos_token.or(config.eos_token),
        pad_token: map.pad_token.or(config.pad_token),
        unk_token: map.unk_token.or(config.unk_token),
        ..config
    })
}

/// `model_max_length`; transformers writes 1e30 where nobody has said one.
fn length(max: Option<f64>) -> usize {
    max.filter(|n| (3.0..CLIP_LENGTH as f64).contains(n)).map_or(CLIP_LENGTH, |n| n as usize)
}

fn merges(path: &Path, vocabulary: &HashMap<String, u32>) -> Result<Vec<(String, String)>, LoadError> {
    let text = read(path)?;
    let pair = |(number, line): (usize, &str)| {
        let invalid = |what: &str| LoadError::Tokenizer {
            path: path.to_owned(),
            reason: format!("line {}, {line:?}, {what}", number + 1),
        };
        let (a, b) =
            line.trim_end().split_once(' ').ok_or_else(|| invalid("is not two tokens with a space between"))?;
        let known = [a, b, &format!("{a}{b}")].iter().all(|token| vocabulary.contains_key(*token));
        known.then(|| (a.to_owned(), b.to_owned())).ok_or_else(|| invalid("merges tokens that are not in vocab.json"))
    };
    // The first line says which version of the format this is.
    text.trim().split('\n').enumerate().skip(1).take(MAX_MERGES).map(pair).collect()
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    serde_json::from_str(&read(path)?).map_err(|source| LoadError::Config { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<String, LoadError> {
    std::fs::read_to_string(path).map_err(|source| LoadError::Io { path: path.to_owned(), source })
}
