//! Frozen tensors of f32, f16 or bf16: in their file, and in memory.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use memmap2::{Mmap, UncheckedAdvice};
use rayon::prelude::*;
use tracing::debug;

use crate::cache::Shelf;
use crate::memory::zeros;

/// Bytes that are read at a time: they stay in the cache until they are decoded.
const READ_BYTES: usize = 1 << 15;
/// Values that a thread reads at a time where the whole tensor is wanted as it lies.
const BLOCK: usize = 1 << 16;

/// How a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float {
    F32,
    F16,
    Bf16,
}

/// Values in memory. Those of a large checkpoint in f16 stay in f16, which takes half the memory, and are widened, which loses
/// nothing, where they are multiplied.
#[derive(Clone, Debug)]
pub(crate) enum Values {
    Single(Held<f32>),
    Half(Held<f16>),
}

/// Values that are written now, as [`Values`] will hold them.
pub(crate) enum Fresh {
    Single(Vec<f32>),
    Half(Vec<f16>),
}

/// Values in memory of their own, or in a mapped file.
#[derive(Clone, Debug)]
pub(crate) enum Held<T> {
    Own(Vec<T>),
    Mapped(Mapped<T>),
}

/// A part of a mapped file.
#[derive(Clone, Debug)]
pub(crate) struct Mapped<T> {
    map: Arc<Mmap>,
    bytes: Range<usize>,
    of: PhantomData<T>,
}

/// A value as its bytes lie in a file.
pub(crate) trait Plain: Sized {
    /// All of `bytes`, which are aligned and whole.
    fn view(bytes: &[u8]) -> &[Self];
}

impl Plain for f32 {
    #[inline(always)]
    fn view(bytes: &[u8]) -> &[Self] {
        pulp::bytemuck::cast_slice(bytes)
    }
}

impl Plain for f16 {
    #[inline(always)]
    fn view(bytes: &[u8]) -> &[Self] {
        pulp::bytemuck::cast_slice::<u8, u16>(bytes).reinterpret_cast()
    }
}

impl<T> Held<T> {
    /// `bytes` of a file, aligned as its values are.
    fn mapped(map: Arc<Mmap>, bytes: Range<usize>) -> Self {
        Self::Mapped(Mapped { map, bytes, of: PhantomData })
    }
}

impl<T> Held<T> {
    /// Gives back the memory of values in a mapped file, until they are read again; others stay.
    #[allow(unsafe_code)]
    fn release(&self) {
        if let Self::Mapped(Mapped { map, bytes, .. }) = self {
            // SAFETY: pages of a private mapping that nothing writes: whoever reads them finds what the file holds, which never changes.
            let done = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, bytes.start, bytes.len()) };
            if let Err(error) = done {
                debug!(%error, "mapped weights stay in memory");
            }
        }
    }
}

impl<T: Plain> Deref for Held<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        match self {
            Self::Own(values) => values,
            Self::Mapped(Mapped { map, bytes, .. }) => T::view(&map[bytes.clone()]),
        }
    }
}

/// Where a frozen weight comes from.
pub(crate) trait Source: Sync {
    fn len(&self) -> usize;

    /// True if its values are to be held in f16.
    fn is_half(&self) -> bool;

    /// Writes the values from `first` on to `out`.
    ///
    /// # Errors
    /// The file cannot be read, or has become shorter.
    fn read(&self, first: usize, out: &mut [f32]) -> io::Result<()>;

    /// Where what is made of it is kept, and under which name.
    fn shelf(&self) -> Option<(&Shelf, String)> {
        None
    }
}

/// A tensor in its file. Reading is better than mapping: pages of a mapping count as this process's memory for as long as the
/// system likes, and a file that is cut off ends the process.
#[derive(Clone, Debug)]
pub(crate) struct Stored<'a> {
    pub(crate) file: &'a File,
    pub(crate) bytes: Range<u64>,
    pub(crate) float: Float,
    /// True if f16 is widened as it is read.
    pub(crate) widened: bool,
    pub(crate) shelf: &'a Shelf,
}

/// Tensors as one, each after the other.
pub(crate) struct Joined<'a>(pub(crate) Vec<Stored<'a>>);

impl Values {
    /// `len` values that `make` makes of `source`, out of zeros in pages that nothing has touched yet; those of an earlier start
    /// where it has a shelf with them.
    pub(crate) fn made(
        source: &(impl Source + ?Sized),
        len: usize,
        make: impl FnOnce(&mut Fresh) -> io::Result<()>,
    ) -> io::Result<Self> {
        let (half, place) = (source.is_half(), source.shelf());
        if let Some(values) = place.as_ref().and_then(|(shelf, name)| shelf.find(name, len, half)) {
            return Ok(values);
        }
        let mut fresh =
            if half { Fresh::Half(zeros::<u16>(len).reinterpret_into()) } else { Fresh::Single(zeros(len)) };
        make(&mut fresh)?;
        let values = match fresh {
            Fresh::Single(values) => Self::from(values),
            Fresh::Half(values) => Self::Half(Held::Own(values)),
        };
        Ok(match place {
            Some((shelf, name)) => shelf.put(name, values),
            None => values,
        })
    }

    /// The f16 (`half`) or f32 that `bytes` of a mapped file are.
    pub(crate) fn mapped(map: Arc<Mmap>, bytes: Range<usize>, half: bool) -> Self {
        match half {
            true => Self::Half(Held::mapped(map, bytes)),
            false => Self::Single(Held::mapped(map, bytes)),
        }
    }

    /// All of `source`, read on all threads.
    pub(crate) fn read(source: &impl Source) -> io::Result<Self> {
        Self::made(source, source.len(), |fresh| match fresh {
            Fresh::Single(values) => {
                let blocks = values.par_chunks_mut(BLOCK).enumerate();
                blocks.try_for_each(|(block, values)| source.read(block * BLOCK, values))
            }
            Fresh::Half(values) => {
                let blocks = values.par_chunks_mut(BLOCK).enumerate();
                blocks.try_for_each_init(Vec::new, |wide, (block, values)| {
                    wide.resize(values.len(), 0.0);
                    source.read(block * BLOCK, wide)?;
                    values.convert_from_f32_slice(wide);
                    Ok(())
                })
            }
        })
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Single(values) => values.len(),
            Self::Half(values) => values.len(),
        }
    }

    /// Gives back the memory of values in a mapped file, until they are read again; others stay.
    pub(crate) fn release(&self) {
        match self {
            Self::Single(values) => values.release(),
            Self::Half(values) => values.release(),
        }
    }

    /// The values of `range` as f32.
    pub(crate) fn get(&self, range: Range<usize>) -> Cow<'_, [f32]> {
        match self {
            Self::Single(values) => Cow::Borrowed(&values[range]),
            Self::Half(values) => Cow::Owned(values[range].to_f32_vec()),
        }
    }
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Self {
        Self::Single(Held::Own(values))
    }
}

impl Float {
    fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    fn decode(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => decode(bytes, out, f32::from_le_bytes),
            Self::F16 => decode(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Self::Bf16 => decode(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        }
    }
}

fn decode<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    out.iter_mut().zip(bytes.as_chunks::<N>().0).for_each(|(out, bytes)| *out = value(*bytes));
}

impl Source for Stored<'_> {
    fn len(&self) -> usize {
        (self.bytes.end - self.bytes.start) as usize / self.float.size()
    }

    fn is_half(&self) -> bool {
        self.float == Float::F16 && !self.widened
    }

    fn read(&self, first: usize, out: &mut [f32]) -> io::Result<()> {
        let (size, mut raw) = (self.float.size(), [0; READ_BYTES]);
        let mut at = self.bytes.start + (first * size) as u64;
        for out in out.chunks_mut(READ_BYTES / size) {
            let raw = &mut raw[..out.len() * size];
            self.file.read_exact_at(raw, at)?;
            self.float.decode(raw, out);
            at += raw.len() as u64;
        }
        Ok(())
    }

    fn shelf(&self) -> Option<(&Shelf, String)> {
        Some((self.shelf, self.bytes.start.to_string()))
    }
}

impl Source for Joined<'_> {
    fn len(&self) -> usize {
        self.0.iter().map(Source::len).sum()
    }

    fn is_half(&self) -> bool {
        self.0.iter().all(Source::is_half)
    }

    fn read(&self, mut first: usize, mut out: &mut [f32]) -> io::Result<()> {
        for part in &self.0 {
            let here = part.len().saturating_sub(first).min(out.len());
            let (own, rest) = out.split_at_mut(here);
            if here > 0 {
                part.read(first, own)?;
            }
            (first, out) = (first.saturating_sub(part.len()), rest);
        }
        Ok(())
    }

    fn shelf(&self) -> Option<(&Shelf, String)> {
        let names: Vec<_> = self.0.iter().map(|part| part.bytes.start.to_string()).collect();
        Some((self.0.first()?.shelf, names.join("+")))
    }
}

#[cfg(test)]
impl Source for Vec<f32> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn is_half(&self) -> bool {
        false
    }

    fn read(&self, first: usize, out: &mut [f32]) -> io::Result<()> {
        out.copy_from_slice(&self[first..first + out.len()]);
        Ok(())
    }
}

#[cfg(test)]
impl Source for Vec<f16> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn is_half(&self) -> bool {
        true
    }

    fn read(&self, first: usize, out: &mut [f32]) -> io::Result<()> {
        self[first..first + out.len()].convert_to_f32_slice(out);
        Ok(())
    }
}
