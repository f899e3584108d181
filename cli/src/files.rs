//! Files that are either whole or not there.

use crate::exit::{Exit, Failure};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Writes `path` through `fill`: to a hidden neighbour first, then synced and renamed. Whatever fails, `path` is as it
/// was before and the neighbour is gone.
///
/// # Errors
/// [`Exit::DiskFull`] when the disk is full, [`Exit::Output`] for everything else.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let part = Part::beside(path).map_err(|error| cannot_write(path, &error))?;
    part.finish(fill).map_err(|error| cannot_write(path, &error))
}

/// Writes `bytes` to `path`, whole or not at all.
///
/// # Errors
/// As [`write_with`].
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    write_with(path, |file| file.write_all(bytes))
}

/// Makes `dir` and what is missing above it.
///
/// # Errors
/// As [`write_with`].
pub fn create_dir(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| cannot_write(dir, &error))
}

/// Makes the folder `dir` through `fill`, which gets a hidden neighbour to write into; that is renamed at the end. Whatever
/// fails, nothing of it is left.
///
/// # Errors
/// [`Exit::Output`] when `dir` is there and not empty, what `fill` says, or as [`write_with`].
pub fn write_dir(dir: &Path, fill: impl FnOnce(&Path) -> Result<(), Failure>) -> Result<(), Failure> {
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        let message = format!("{} is not empty; name a folder that is not there yet", dir.display());
        return Err(Failure::new(Exit::Output, message));
    }
    let part = PartDir::beside(dir).map_err(|error| cannot_write(dir, &error))?;
    fill(&part.0)?;
    fs::rename(&part.0, dir).map_err(|error| cannot_write(dir, &error))
}

/// The failure of a write to `path`.
#[must_use]
pub fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Failure::new(
            Exit::DiskFull,
            format!("cannot write {}: the disk is full; free some space and run this again", path.display()),
        ),
        _ => Failure::new(Exit::Output, format!("cannot write {}: {error}", path.display())),
    }
}

/// A file under way to its name. Removed when dropped before it got there.
struct Part {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl Part {
    fn beside(target: &Path) -> io::Result<Self> {
        let path = neighbour(target)?;
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        Ok(Self { file, path, target: target.to_owned() })
    }

    fn finish(self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let mut buffered = BufWriter::new(&self.file);
        fill(&mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        self.file.sync_all()?;
        fs::rename(&self.path, &self.target)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After the rename there is nothing left to remove.
        let _ = fs::remove_file(&self.path);
    }
}

/// A folder under way to its name. Removed when dropped before it got there.
struct PartDir(PathBuf);

impl PartDir {
    fn beside(target: &Path) -> io::Result<Self> {
        let path = neighbour(target)?;
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for PartDir {
    fn drop(&mut self) {
        // After the rename there is nothing left to remove.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A hidden name beside `target`, this process's own; the folder that both lie in is made.
fn neighbour(target: &Path) -> io::Result<PathBuf> {
    let folder = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = target.file_name().ok_or_else(|| io::Error::other("this is no file name"))?;
    fs::create_dir_all(folder)?;
    Ok(folder.join(format!(".{}.{}.part", name.to_string_lossy(), std::process::id())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_written_file_holds_the_bytes_and_leaves_no_neighbour() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/sheet.png");
        write(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(path.parent().unwrap()), ["sheet.png"]);
    }

    #[test]
    fn a_full_disk_leaves_the_old_file_and_nothing_half_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("avatar.png");
        write(&path, b"old").unwrap();
        let failure = write_with(&path, |file| {
            file.write_all(b"half")?;
            Err(ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert_eq!(failure.exit, Exit::DiskFull);
        assert!(failure.message.contains("avatar.png") && failure.message.contains("disk is full"), "{failure}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["avatar.png"]);
    }

    #[test]
    fn a_folder_in_the_way_is_an_output_failure_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let failure = write(dir.path(), b"bytes").unwrap_err();
        assert_eq!(failure.exit, Exit::Output);
        assert!(failure.message.contains(&dir.path().display().to_string()));
    }

    #[test]
    fn a_folder_is_filled_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("model");
        let failure = write_dir(&dir, |part| {
            write(&part.join("unet/weights"), b"half")?;
            Err(Failure::new(Exit::DiskFull, "the disk is full"))
        });
        assert_eq!(failure.unwrap_err().exit, Exit::DiskFull);
        assert!(names(root.path()).is_empty());

        write_dir(&dir, |part| write(&part.join("unet/weights"), b"whole")).unwrap();
        assert_eq!(names(root.path()), ["model"]);
        assert_eq!(fs::read(dir.join("unet/weights")).unwrap(), b"whole");

        let failure = write_dir(&dir, |_| Ok(())).unwrap_err();
        assert!(failure.exit == Exit::Output && failure.message.contains("not empty"), "{failure}");
        assert_eq!(names(&dir), ["unet"]);
    }

    #[test]
    fn a_file_where_a_folder_should_be_is_an_output_failure() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("taken"), b"").unwrap();
        assert_eq!(write(&dir.path().join("taken/avatar.png"), b"").unwrap_err().exit, Exit::Output);
    }
}
