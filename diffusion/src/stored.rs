//! Tensors that stay in their file until they are wanted.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use half::{bf16, f16};

/// Bytes that are read at a time: small beside any weight, so that a weight is not held twice.
const BLOCK: usize = 1 << 18;

/// A frozen tensor of f32, f16 or bf16 in its file. Reading is better than mapping here: pages of a mapping count as this
/// process's memory for as long as the system likes, and a file that is cut off ends the process.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    /// In a file.
    File {
        /// The open file.
        file: Arc<File>,
        /// Where the tensor's bytes are.
        bytes: Range<u64>,
        /// How they are read.
        float: Float,
    },
    /// Made by a test.
    #[cfg(test)]
    Values(Vec<f32>),
}

/// How a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float {
    F32,
    F16,
    Bf16,
}

impl Stored {
    /// All values as f32, in the order of the file.
    ///
    /// # Errors
    /// The file cannot be read, or has become shorter.
    pub(crate) fn read(&self) -> io::Result<Vec<f32>> {
        match self {
            Self::File { file, bytes, float } => float.read(file, bytes),
            #[cfg(test)]
            Self::Values(values) => Ok(values.clone()),
        }
    }
}

impl Float {
    fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    fn read(self, file: &File, bytes: &Range<u64>) -> io::Result<Vec<f32>> {
        let len = (bytes.end - bytes.start) as usize;
        let (mut values, mut block) = (Vec::with_capacity(len / self.size()), vec![0; BLOCK.min(len)]);
        let mut at = bytes.start;
        while at < bytes.end {
            let count = BLOCK.min((bytes.end - at) as usize);
            file.read_exact_at(&mut block[..count], at)?;
            match self {
                Self::F32 => decode(&mut values, &block[..count], f32::from_le_bytes),
                Self::F16 => decode(&mut values, &block[..count], |b| f16::from_le_bytes(b).to_f32()),
                Self::Bf16 => decode(&mut values, &block[..count], |b| bf16::from_le_bytes(b).to_f32()),
            }
            at += count as u64;
        }
        Ok(values)
    }
}

fn decode<const N: usize>(values: &mut Vec<f32>, bytes: &[u8], value: impl Fn([u8; N]) -> f32) {
    values.extend(bytes.as_chunks::<N>().0.iter().map(|chunk| value(*chunk)));
}
