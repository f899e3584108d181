//! The bytes of an embedding file: safetensors, written here so that equal embeddings are equal files.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::str::FromStr;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::{EmbeddingError, Facts, MAX_BYTES};

/// As many as fit into a prompt between BOS and EOS.
pub(super) const MAX_VECTORS: usize = 75;
const MAX_TOKEN_BYTES: usize = 128;

const TOKEN: &str = "token";
const VECTORS: &str = "vectors";
const BASE_MODEL: &str = "base_model";
const BASE_MODEL_NAME: &str = "base_model_name";
const STEPS: &str = "steps";
const LOSS: &str = "loss";
const SEED: &str = "seed";
const INIT: &str = "init";
/// Also the mark of a file that Likeness wrote.
const VERSION: &str = "likeness_version";
const FORMAT: &str = "likeness_format";
const FORMAT_NOW: u32 = 1;

/// A file, taken apart.
pub(super) struct Parts {
    pub(super) token: String,
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
    pub(super) metadata: HashMap<String, String>,
}

/// The header's `__metadata__`, sorted by key.
pub(super) fn metadata(token: &str, vectors: usize, facts: &Facts) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        (TOKEN, token.to_owned()),
        (VECTORS, vectors.to_string()),
        (BASE_MODEL, facts.base_model.to_string()),
        (BASE_MODEL_NAME, facts.base_model_name.clone()),
        (STEPS, facts.steps.to_string()),
        (LOSS, facts.loss.to_string()),
        (SEED, facts.seed.to_string()),
        (INIT, facts.init.clone()),
        (VERSION, facts.version.clone()),
        (FORMAT, FORMAT_NOW.to_string()),
    ])
}

/// The facts of a file that Likeness wrote; none for other files.
pub(super) fn facts(
    metadata: &HashMap<String, String>,
    token: &str,
    vectors: usize,
) -> Result<Option<Facts>, EmbeddingError> {
    if !metadata.contains_key(VERSION) && !metadata.contains_key(FORMAT) {
        return Ok(None);
    }
    let found = |key| fact::<String>(metadata, key, "a text");
    let number = |key| fact::<u64>(metadata, key, "a whole number");
    same(metadata, FORMAT, &FORMAT_NOW.to_string())?;
    same(metadata, TOKEN, token)?;
    same(metadata, VECTORS, &vectors.to_string())?;
    let loss = fact::<f32>(metadata, LOSS, "a number")?;
    check_loss(loss)?;
    Ok(Some(Facts {
        base_model: fact(metadata, BASE_MODEL, "sha256: and 64 lower-case hex digits")?,
        base_model_name: found(BASE_MODEL_NAME)?,
        steps: number(STEPS)?,
        loss,
        seed: number(SEED)?,
        version: found(VERSION)?,
        init: found(INIT)?,
    }))
}

fn fact<T: FromStr>(
    metadata: &HashMap<String, String>,
    key: &'static str,
    expected: &str,
) -> Result<T, EmbeddingError> {
    let value = metadata.get(key);
    value.and_then(|value| value.parse().ok()).ok_or_else(|| wrong(key, value, expected))
}

/// A fact that must repeat what the tensor already says.
fn same(metadata: &HashMap<String, String>, key: &'static str, expected: &str) -> Result<(), EmbeddingError> {
    let value = metadata.get(key);
    if value.is_some_and(|value| value == expected) { Ok(()) } else { Err(wrong(key, value, expected)) }
}

fn wrong(key: &'static str, value: Option<&String>, expected: impl Display) -> EmbeddingError {
    let value = value.map_or("nothing".to_owned(), |value| format!("{value:?}"));
    EmbeddingError::Fact { key, value, expected: expected.to_string() }
}

pub(super) fn check_loss(loss: f32) -> Result<(), EmbeddingError> {
    if loss.is_finite() { Ok(()) } else { Err(wrong(LOSS, Some(&loss.to_string()), "a finite number")) }
}

/// What every embedding keeps to, written or read.
pub(super) fn check(token: &str, shape: &[usize], values: &[f32]) -> Result<(), EmbeddingError> {
    let printable = |c: char| !c.is_whitespace() && !c.is_control();
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES || token == "__metadata__" || !token.chars().all(printable) {
        return Err(EmbeddingError::Token { token: token.chars().take(MAX_TOKEN_BYTES).collect() });
    }
    let token = || token.to_owned();
    match *shape {
        [vectors, width] if (1..=MAX_VECTORS).contains(&vectors) && width > 0 => {
            let broken = values.iter().position(|value| !value.is_finite());
            broken.map_or(Ok(()), |i| Err(EmbeddingError::NotFinite { token: token(), row: i / width }))
        }
        _ => Err(EmbeddingError::Shape { token: token(), found: shape.to_vec() }),
    }
}

/// A safetensors file: header length, header padded with spaces to 8 bytes, values.
pub(super) fn write(
    token: &str,
    shape: &[usize],
    values: &[f32],
    metadata: Option<&BTreeMap<&'static str, String>>,
) -> Vec<u8> {
    // Put together by hand: the order of a JSON map's keys must not depend on a feature of another crate.
    let text = |text: &str| Value::from(text).to_string();
    let metadata = metadata.map(|metadata| {
        let pairs: Vec<String> = metadata.iter().map(|(key, value)| format!("{}:{}", text(key), text(value))).collect();
        format!("\"__metadata__\":{{{}}},", pairs.join(","))
    });
    let offsets = [0, 4 * values.len()];
    let tensor = format!("{}:{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":{offsets:?}}}", text(token));
    let mut header = format!("{{{}{tensor}}}", metadata.unwrap_or_default());
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));

    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

pub(super) fn read(bytes: &[u8]) -> Result<Parts, EmbeddingError> {
    if bytes.len() > MAX_BYTES {
        return Err(EmbeddingError::TooLarge { bytes: bytes.len() });
    }
    let format = |error: safetensors::SafeTensorError| EmbeddingError::Format(error.to_string());
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(format)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(format)?;
    let [name] = tensors.names()[..] else {
        let mut names = tensors.names();
        names.sort_unstable();
        return Err(EmbeddingError::Tensors { count: names.len(), names: names[..names.len().min(8)].join(", ") });
    };
    let view = tensors.tensor(name).map_err(format)?;
    let shape = if let [width] = *view.shape() { vec![1, width] } else { view.shape().to_vec() };
    let token = name.to_owned();
    let data = view.data();
    let values = match view.dtype() {
        Dtype::F32 => words(data, f32::from_le_bytes),
        Dtype::F16 => words(data, |word| f16::from_le_bytes(word).to_f32()),
        Dtype::BF16 => words(data, |word| bf16::from_le_bytes(word).to_f32()),
        other => return Err(EmbeddingError::ElementType { token, found: format!("{other:?}") }),
    };
    Ok(Parts { token, shape, values, metadata: header.metadata().clone().unwrap_or_default() })
}

fn words<const N: usize>(data: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    data.as_chunks::<N>().0.iter().map(|word| value(*word)).collect()
}
