//! Tensors of f32, f16 or bf16 in a file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use half::{bf16, f16};
use rayon::prelude::*;

/// Values that are read at a time: their bytes are few beside any weight, so that a weight is not held twice.
const BLOCK: usize = 1 << 16;

/// How a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The values in `bytes` of a file as f32, read on all threads. Reading is better than mapping here: pages of a mapping count
    /// as this process's memory for as long as the system likes, and a file that is cut off ends the process.
    ///
    /// # Errors
    /// The file cannot be read, or has become shorter.
    pub(crate) fn read(self, file: &File, bytes: &Range<u64>) -> io::Result<Vec<f32>> {
        let mut values = vec![0.0; (bytes.end - bytes.start) as usize / self.size()];
        let blocks = values.par_chunks_mut(BLOCK).enumerate();
        blocks.try_for_each_init(Vec::new, |raw: &mut Vec<u8>, (block, values)| -> io::Result<()> {
            raw.resize(values.len() * self.size(), 0);
            file.read_exact_at(raw, bytes.start + (block * BLOCK * self.size()) as u64)?;
            match self {
                Self::F32 => decode(values, raw, f32::from_le_bytes),
                Self::F16 => decode(values, raw, |b| f16::from_le_bytes(b).to_f32()),
                Self::Bf16 => decode(values, raw, |b| bf16::from_le_bytes(b).to_f32()),
            }
            Ok(())
        })?;
        Ok(values)
    }
}

fn decode<const N: usize>(values: &mut [f32], bytes: &[u8], value: impl Fn([u8; N]) -> f32) {
    values.iter_mut().zip(bytes.as_chunks::<N>().0).for_each(|(out, chunk)| *out = value(*chunk));
}
