//! The values that were made of one weight file, in a file of their own: a safetensors file, whose tensors are named after the
//! places of what they were made of.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use memmap2::{Mmap, MmapOptions};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use tempfile::{NamedTempFile, TempPath};
use tracing::{info, warn};

use super::Stamp;
use crate::stored::Values;
use crate::weights::header;

/// To be counted up when panels are laid out, or tensors joined, in another way.
const LAYOUT: usize = 1;
/// Bytes for the header: a fixed part, and one for each tensor.
const HEADER: (usize, usize) = (1 << 10, 1 << 8);
/// What the values begin at a multiple of.
const PAGE: usize = 4096;
/// Age from which a file that was never finished, and that nobody holds, is nobody's: until then it may not be held yet.
const ABANDONED: Duration = Duration::from_secs(10);

/// Where values made of a weight file come from or go to.
#[derive(Debug, Default)]
pub(crate) enum Shelf {
    /// Neither.
    #[default]
    None,
    /// They are there.
    Full(Full),
    /// They are made now.
    Filling(Filling),
}

/// A mapped file.
#[derive(Debug)]
pub(crate) struct Full {
    map: Arc<Mmap>,
    index: HashMap<String, (Dtype, Range<usize>)>,
}

/// A file that is written.
#[derive(Debug)]
pub(crate) struct Filling {
    weights: PathBuf,
    stamp: Stamp,
    file: File,
    /// The name that it has until it gets its own; none: it never gets one.
    under_way: Option<TempPath>,
    /// Where the values begin.
    start: usize,
    contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    tensors: Vec<(String, TensorInfo)>,
    bytes: usize,
    failure: Option<io::Error>,
}

impl Shelf {
    /// `len` values under `name`, if they are there.
    pub(crate) fn find(&self, name: &str, len: usize, half: bool) -> Option<Values> {
        let Self::Full(Full { map, index }) = self else { return None };
        let (dtype, place) = index.get(name)?;
        let (wanted, size) = if half { (Dtype::F16, 2) } else { (Dtype::F32, 4) };
        if (*dtype, place.len()) != (wanted, len * size) {
            return None;
        }
        Some(Values::mapped(Arc::clone(map), place.clone(), half))
    }

    /// Puts `values` there, if it is to be filled: they are pages of its file from now on, and take no memory of their own.
    pub(crate) fn put(&self, name: String, values: Values) -> Values {
        match self {
            Self::Filling(filling) => filling.put(name, values),
            Self::None | Self::Full(_) => values,
        }
    }
}

impl Full {
    /// The file at `path`, of the weights that `sha256` is of; none: there is no such file, or it is of another layout or damaged,
    /// and to be made again.
    pub(super) fn open(path: &Path, sha256: &str) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let (metadata, start) = match header(&file, file.metadata()?.len())? {
            Ok((metadata, start)) if *metadata.metadata() == Some(facts(sha256)) => (metadata, start as usize),
            Ok(_) => return Ok(None),
            Err(reason) => {
                warn!(%reason, place = %path.display(), "prepared weights are damaged, they are made again");
                return Ok(None);
            }
        };
        let place = |(from, to): (usize, usize)| start + from..start + to;
        let tensors = metadata.tensors().into_iter();
        let index = tensors.map(|(name, info)| (name, (info.dtype, place(info.data_offsets)))).collect();
        Ok(Some(Self { map: map(&file, 0, start + metadata.data_len())?, index }))
    }

    /// Bytes that are mapped.
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }
}

/// `len` bytes of `file`, of which pages come into memory as they are used: to have all of them mapped at once takes longer than the
/// faults.
#[allow(unsafe_code)]
fn map(file: &File, at: u64, len: usize) -> io::Result<Arc<Mmap>> {
    // SAFETY: what is mapped of a file of the cache was written before, is never written again nor cut off, and nobody but its owner
    // can reach it.
    unsafe { MmapOptions::new().offset(at).len(len).map(file) }.map(Arc::new)
}

impl Filling {
    /// A file for the values of the weights at `weights`, of so many tensors; of no name unless it is to be `kept`.
    pub(super) fn begin(
        folder: &Path,
        (weights, stamp): (PathBuf, Stamp),
        tensors: usize,
        kept: bool,
    ) -> io::Result<Self> {
        let (file, under_way) = if kept {
            sweep(folder);
            let (file, path) = part(folder)?.into_parts();
            (file, Some(path))
        } else {
            (tempfile::tempfile_in(folder)?, None)
        };
        let start = (HEADER.0 + tensors * HEADER.1).next_multiple_of(PAGE);
        Ok(Self { weights, stamp, file, under_way, start, contents: Mutex::default() })
    }

    pub(super) fn weights(&self) -> &Path {
        &self.weights
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// One that a full disk has not taken.
    #[cfg(test)]
    pub(super) fn failed(folder: &Path, weights: PathBuf, stamp: Stamp) -> Self {
        let filling = Self::begin(folder, (weights, stamp), 0, true).unwrap();
        filling.contents().failure = Some(ErrorKind::StorageFull.into());
        filling
    }

    /// Bytes of the file.
    pub(super) fn len(&self) -> usize {
        self.start + self.contents().bytes
    }

    /// Has what was put there reach the disk: pages that it has not taken would be lost when memory is short.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.contents().failure.take().map_or(Ok(()), Err)?;
        self.file.sync_all()
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, name: String, values: Values) -> Values {
        let (dtype, bytes) = match &values {
            Values::Single(values) => (Dtype::F32, pulp::bytemuck::cast_slice::<f32, u8>(values)),
            Values::Half(values) => {
                use half::slice::HalfFloatSliceExt;
                (Dtype::F16, pulp::bytemuck::cast_slice::<u16, u8>(values.reinterpret_cast()))
            }
        };
        let mut contents = self.contents();
        if contents.failure.is_some() {
            return values;
        }
        let first = contents.bytes;
        contents.bytes += bytes.len();
        let (shape, data_offsets) = (vec![values.len()], (first, contents.bytes));
        contents.tensors.push((name, TensorInfo { dtype, shape, data_offsets }));
        drop(contents);
        let at = (self.start + first) as u64;
        match self.file.write_all_at(bytes, at).and_then(|()| map(&self.file, at, bytes.len())) {
            Ok(map) => Values::mapped(map, 0..bytes.len(), dtype == Dtype::F16),
            Err(error) => {
                self.contents().failure.get_or_insert(error);
                values
            }
        }
    }

    /// Writes the header and gives the file its name.
    pub(super) fn finish(self, path: &Path, sha256: &str) -> io::Result<()> {
        let began = Instant::now();
        let Contents { tensors, bytes, failure } = self.contents.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = failure {
            return Err(failure);
        }
        let metadata = Metadata::new(Some(facts(sha256)), tensors).map_err(io::Error::other)?;
        let mut head = serde_json::to_vec(&metadata)?;
        let room = self.start - size_of::<u64>();
        if head.len() > room {
            return Err(io::Error::other(format!("a header of {} bytes does not fit into {room}", head.len())));
        }
        head.resize(room, b' ');
        self.file.write_all_at(&(room as u64).to_le_bytes(), 0)?;
        self.file.write_all_at(&head, size_of::<u64>() as u64)?;
        let Some(under_way) = self.under_way else { return self.file.sync_all() };
        name(NamedTempFile::from_parts(self.file, under_way), path)?;
        info!(mib = bytes >> 20, seconds = began.elapsed().as_secs_f64(), place = %path.display(), "weights kept as panels");
        Ok(())
    }
}

/// What a file says of itself.
fn facts(sha256: &str) -> HashMap<String, String> {
    let order = if cfg!(target_endian = "little") { "little" } else { "big" };
    let layout = format!("{LAYOUT} of {} {}, {order}-endian", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    [("made_of", sha256.to_owned()), ("layout", layout)].map(|(key, value)| (key.to_owned(), value)).into()
}

/// What a file under way to its name ends with.
const UNDER_WAY: &str = ".part";

/// A file of its owner's under way to its name, in a folder, held by a lock; gone when dropped before it got there.
fn part(folder: &Path) -> io::Result<NamedTempFile> {
    let part = tempfile::Builder::new().suffix(UNDER_WAY).tempfile_in(folder)?;
    // Where a file system has no locks, nobody can tell whose a file is, and none is swept.
    let _ = part.as_file().lock();
    Ok(part)
}

/// Gives a file its name, in place of another's that may have it.
fn name(part: NamedTempFile, path: &Path) -> io::Result<()> {
    part.as_file().sync_all()?;
    part.persist(path).map(drop).map_err(|error| error.error)
}

/// Writes a small file, whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = part(path.parent().unwrap_or(Path::new(".")))?;
    part.as_file().write_all_at(bytes, 0)?;
    name(part, path)
}

/// Removes what processes that were killed have left.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.path().to_string_lossy().ends_with(UNDER_WAY)) {
        let made = entry.metadata().and_then(|metadata| metadata.modified());
        let old = made.is_ok_and(|made| made.elapsed().is_ok_and(|ago| ago > ABANDONED));
        if old && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_said_once_leaves_nothing_and_takes_no_values() {
        let dir = tempfile::tempdir().unwrap();
        let (weights, named) = (dir.path().join("weights"), dir.path().join("named.panels"));
        fs::write(&weights, "weights").unwrap();
        let stamp = Stamp::of(&fs::metadata(&weights).unwrap());
        let mut filling = Filling::begin(dir.path(), (weights, stamp), 2, true).unwrap();
        filling.file = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let shelf = Shelf::Filling(filling);
        for name in ["0", "64"] {
            let values = shelf.put(name.to_owned(), vec![1.0; 64].into());
            assert_eq!(values.get(0..64), vec![1.0; 64]);
        }
        let Shelf::Filling(filling) = shelf else { unreachable!("it was made so") };
        assert_eq!(filling.finish(&named, "").unwrap_err().kind(), ErrorKind::StorageFull);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["weights"]);
    }
}
