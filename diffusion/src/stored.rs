//! Tensors of f32, f16 or bf16 in a file, and in memory as they are kept from then on.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use half::slice::HalfFloatSliceExt;
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

    /// The values in `bytes` of a file, read on all threads. Reading is better than mapping here: pages of a mapping count as
    /// this process's memory for as long as the system likes, and a file that is cut off ends the process.
    ///
    /// # Errors
    /// The file cannot be read, or has become shorter.
    pub(crate) fn read(self, file: &File, bytes: &Range<u64>) -> io::Result<Stored> {
        let count = (bytes.end - bytes.start) as usize / self.size();
        match self {
            Self::F32 => decoded(file, bytes, count, f32::from_le_bytes).map(Stored::Single),
            Self::F16 => decoded(file, bytes, count, f16::from_le_bytes).map(Stored::Half),
            Self::Bf16 => decoded(file, bytes, count, |b| bf16::from_le_bytes(b).to_f32()).map(Stored::Single),
        }
    }
}

fn decoded<T: Copy + Default + Send, const N: usize>(
    file: &File,
    bytes: &Range<u64>,
    count: usize,
    value: impl Fn([u8; N]) -> T + Sync,
) -> io::Result<Vec<T>> {
    let mut values = vec![T::default(); count];
    let blocks = values.par_chunks_mut(BLOCK).enumerate();
    blocks.try_for_each_init(Vec::new, |raw: &mut Vec<u8>, (block, values)| -> io::Result<()> {
        raw.resize(values.len() * N, 0);
        file.read_exact_at(raw, bytes.start + (block * BLOCK * N) as u64)?;
        values.iter_mut().zip(raw.as_chunks::<N>().0).for_each(|(out, chunk)| *out = value(*chunk));
        Ok(())
    })?;
    Ok(values)
}

/// Values of a frozen tensor: those of a checkpoint in f16 stay in f16, which takes half the memory, and are widened, which
/// loses nothing, where they are multiplied.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    Single(Vec<f32>),
    Half(Vec<f16>),
}

impl From<Vec<f32>> for Stored {
    fn from(values: Vec<f32>) -> Self {
        Self::Single(values)
    }
}

impl Stored {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Single(values) => values.len(),
            Self::Half(values) => values.len(),
        }
    }

    /// The values of `range` as f32.
    pub(crate) fn get(&self, range: Range<usize>) -> Cow<'_, [f32]> {
        match self {
            Self::Single(values) => Cow::Borrowed(&values[range]),
            Self::Half(values) => Cow::Owned(values[range].to_f32_vec()),
        }
    }

    /// All of them as f32.
    pub(crate) fn into_single(self) -> Vec<f32> {
        match self {
            Self::Single(values) => values,
            Self::Half(values) => values.to_f32_vec(),
        }
    }

    /// One after the other; as f32 unless all are f16.
    pub(crate) fn concat(parts: Vec<Self>) -> Self {
        let halves = parts.iter().map(|part| match part {
            Self::Single(_) => None,
            Self::Half(values) => Some(values.as_slice()),
        });
        match halves.collect::<Option<Vec<_>>>() {
            Some(halves) => Self::Half(halves.concat()),
            None => Self::Single(parts.into_iter().flat_map(Self::into_single).collect()),
        }
    }
}
