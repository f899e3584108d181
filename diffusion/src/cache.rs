//! What a start makes of a base model and the next one finds again: the digests of its files, and its weights as panels.
//!
//! The files of panels are mapped, by the process that makes them and by all that find them, so what is written of one never changes:
//! each is written under another name, synced and renamed. The folder is its owner's alone, so that nobody else can cut one off under
//! a process.

mod shelf;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::digest::sha256;
pub(crate) use shelf::Shelf;
use shelf::{Filling, Full, write_whole};

/// The file of digests.
const DIGESTS: &str = "digests.json";
/// A file that changed less than this ago could change once more within the same tick of the file system's clock.
const SETTLED: Duration = Duration::from_secs(2);

/// A folder of what was made of base models. Whatever goes wrong with it is logged, and the model is prepared as without it.
#[derive(Debug)]
pub struct ModelCache {
    folder: PathBuf,
    /// Whether a later start is to find anything.
    kept: bool,
    settled: Duration,
    /// By the files' canonical paths.
    digests: Mutex<BTreeMap<PathBuf, Known>>,
    /// Shelves that are written and have no name yet.
    filled: Mutex<Vec<Filling>>,
    /// Bytes of the shelves that were found or filled.
    mapped: AtomicU64,
}

/// The digest of a file as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    stamp: Stamp,
    sha256: String,
}

/// What changes when a file does. Nobody can set the time of the last change of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    bytes: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            bytes: file.len(),
            device: file.dev(),
            inode: file.ino(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    /// Whether a change from now on would show.
    fn is_settled(&self, after: Duration) -> bool {
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(self.changed.0.max(0) as u64);
        changed.elapsed().is_ok_and(|ago| ago >= after)
    }
}

impl ModelCache {
    /// The folder at `folder`, made if it is not there, for its owner alone.
    ///
    /// # Errors
    /// It cannot be made, or others may read or write it.
    pub fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let folder = folder.canonicalize()?;
        let metadata = fs::metadata(&folder)?;
        if metadata.uid() != own_user() || metadata.mode() & 0o077 != 0 {
            let reason = "it is not its owner's alone; name a folder that is not there yet, or chmod 700 it";
            return Err(io::Error::new(ErrorKind::PermissionDenied, reason));
        }
        let digests = Mutex::new(read_digests(&folder.join(DIGESTS)));
        Ok(Self { digests, ..Self::new(folder, true) })
    }

    /// One of which nothing is kept: panels are pages of nameless files in `folder`, made if it is not there, and gone with the model.
    /// For those who are short of memory rather than of disk.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn spill(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self::new(folder.canonicalize()?, false))
    }

    fn new(folder: PathBuf, kept: bool) -> Self {
        let (digests, filled, mapped) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Self { folder, kept, settled: SETTLED, digests, filled, mapped }
    }

    /// SHA-256 of a file: the one known of it, if it has not changed since, else computed.
    pub(crate) fn sha256(&self, path: &Path) -> io::Result<String> {
        let (place, stamp) = (path.canonicalize()?, Stamp::of(&fs::metadata(path)?));
        if let Some(known) = self.known(&place, stamp) {
            return Ok(known);
        }
        let settled = stamp.is_settled(self.settled);
        let sha256 = hex::encode(sha256(path)?);
        if self.kept && settled && stamp == Stamp::of(&fs::metadata(path)?) {
            lock(&self.digests).insert(place, Known { stamp, sha256: sha256.clone() });
        }
        Ok(sha256)
    }

    fn known(&self, place: &Path, stamp: Stamp) -> Option<String> {
        lock(&self.digests).get(place).filter(|known| known.stamp == stamp).map(|known| known.sha256.clone())
    }

    /// What was made of the open weight file at `path`, of so many tensors, or a shelf to put it on.
    pub(crate) fn shelf(&self, path: &Path, file: &File, tensors: usize) -> Shelf {
        let shelf = || -> io::Result<Shelf> {
            let (place, stamp) = (path.canonicalize()?, Stamp::of(&file.metadata()?));
            if let Some(sha256) = self.known(&place, stamp)
                && let Some(full) = Full::open(&self.panels(&sha256), &sha256)?
            {
                self.mapped.fetch_add(full.len() as u64, Ordering::Relaxed);
                return Ok(Shelf::Full(full));
            }
            Ok(Shelf::Filling(Filling::begin(&self.folder, (place, stamp), tensors, self.kept)?))
        };
        shelf().unwrap_or_else(|error| {
            warn!(%error, weights = %path.display(), "prepared weights cannot be written, they are held in memory");
            Shelf::None
        })
    }

    /// Bytes that were mapped of it since it was opened.
    pub(crate) fn mapped(&self) -> u64 {
        self.mapped.load(Ordering::Relaxed)
    }

    /// Takes back the shelf of a component that was loaded.
    pub(crate) fn take_back(&self, shelf: Shelf) {
        if let Shelf::Filling(filling) = shelf {
            self.mapped.fetch_add(filling.len() as u64, Ordering::Relaxed);
            lock(&self.filled).push(filling);
        }
    }

    /// Keeps what was made since; the digests of all files are computed by now.
    ///
    /// # Errors
    /// The disk is full or fails: the weights that were mapped of it are not to be relied on, and its room is taken until they go.
    pub(crate) fn keep(&self) -> io::Result<()> {
        for filling in std::mem::take(&mut *lock(&self.filled)) {
            match self.known(filling.weights(), filling.stamp()) {
                Some(sha256) => filling.finish(&self.panels(&sha256), &sha256)?,
                None => filling.sync()?,
            }
        }
        if let Err(error) = self.write_digests() {
            warn!(%error, folder = %self.folder.display(), "digests cannot be kept in the model cache");
        }
        Ok(())
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes the digests, with those that another process has written, unless nothing is new. Files that are gone are forgotten.
    fn write_digests(&self) -> io::Result<()> {
        let path = self.folder.join(DIGESTS);
        let written = read_digests(&path);
        let mut all = written.clone();
        all.extend(lock(&self.digests).clone());
        all.retain(|path, _| path.exists());
        if all == written {
            return Ok(());
        }
        write_whole(&path, &serde_json::to_vec_pretty(&all)?)
    }

    fn panels(&self, sha256: &str) -> PathBuf {
        self.folder.join(format!("{sha256}.panels"))
    }
}

fn read_digests(path: &Path) -> BTreeMap<PathBuf, Known> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
            warn!(%error, place = %path.display(), "known digests cannot be read, they are computed again");
            BTreeMap::new()
        }),
        Err(_not_there) => BTreeMap::new(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[allow(unsafe_code)]
fn own_user() -> u32 {
    // SAFETY: geteuid takes nothing, touches nothing and cannot fail.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests;
