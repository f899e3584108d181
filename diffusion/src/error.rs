//! What can be wrong with a model directory.

use std::path::PathBuf;

/// Why a model directory could not be loaded. Every variant names the file, and the tensor or key where there is one.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A device did not take the weights.
    #[error("cannot place the weights of {path} on the device: {source}; has it enough free memory?")]
    Device {
        /// The weight file.
        path: PathBuf,
        /// What the device said.
        source: candle_core::Error,
    },
    /// A file that defines the model is not there.
    #[error("{folder} has no {wanted}: a Stable Diffusion directory in the Hugging Face layout needs it")]
    NoFile {
        /// The folder that was searched.
        folder: PathBuf,
        /// The accepted file names.
        wanted: String,
    },
    /// A JSON file does not parse or lacks a key.
    #[error("{path} is not a valid configuration: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },
    /// A configuration asks for something that is not supported.
    #[error("{path} has {key} = {value}, which is not supported; accepted: {accepted}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key in it.
        key: String,
        /// Its value.
        value: String,
        /// What would be accepted.
        accepted: String,
    },
    /// A weight file is not a whole, valid safetensors file.
    #[error("{path} is corrupt or truncated: {reason}; fetch it again")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration wants a tensor that the file lacks.
    #[error("{path} lacks tensor {tensor} of shape {expected:?}")]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// Its full name.
        tensor: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// The file has a tensor that the configuration has no place for.
    #[error("{path} has a tensor that its configuration has no place for: {tensor} of shape {found:?}")]
    SurplusTensor {
        /// The file.
        path: PathBuf,
        /// Its full name.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{path} has tensor {tensor} of shape {found:?}, its configuration asks for {expected:?}")]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// Its full name.
        tensor: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor has an element type that is not read.
    #[error("{path} has tensor {tensor} of type {found}; accepted: F32, F16, BF16")]
    TensorType {
        /// The file.
        path: PathBuf,
        /// Its full name.
        tensor: String,
        /// The type in the file.
        found: String,
    },
    /// The tokenizer's files do not make a tokenizer.
    #[error("{path} does not make a tokenizer: {reason}")]
    Tokenizer {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The parts of the model do not fit one another.
    #[error("{path}: {reason}")]
    Mismatch {
        /// The model directory.
        path: PathBuf,
        /// Which parts disagree, with both values.
        reason: String,
    },
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
