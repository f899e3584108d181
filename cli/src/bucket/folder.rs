//! A bucket that is a folder.

use crate::exit::{Exit, Failure};
use object_store::local::LocalFileSystem;
use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Opens a folder as a bucket, made if needed. Writes are synced before they are said to be done.
///
/// # Errors
/// [`Exit::Bucket`] when it cannot be made or written.
pub(super) fn open(folder: &Path) -> Result<Arc<LocalFileSystem>, Failure> {
    fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
    probe(folder).map_err(|error| unwritable(folder, &error))?;
    let bucket = LocalFileSystem::new_with_prefix(folder).map_err(|error| unwritable(folder, &error))?;
    Ok(Arc::new(bucket.with_fsync(true).with_automatic_cleanup(true)))
}

/// Removes what writes that a killed process began have left: `NAME#1`, which object_store renames to `NAME` when all is
/// written, and does not list. Only while nobody else writes to the bucket.
///
/// # Errors
/// [`Exit::Bucket`] when a leftover cannot be removed.
pub(super) fn remove_unfinished(folder: &Path) -> Result<(), Failure> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            remove_unfinished(&path)?;
        } else if is_unfinished(&path) {
            fs::remove_file(&path).map_err(|error| unwritable(folder, &error))?;
        }
    }
    Ok(())
}

/// No object's name holds a `#`.
fn is_unfinished(path: &Path) -> bool {
    let suffix = path.file_name().and_then(|name| name.to_str()?.rsplit_once('#'));
    suffix.is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
}

fn probe(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".probe.{}", std::process::id()));
    fs::write(&path, b"can this be written?")?;
    fs::remove_file(path)
}

fn unwritable(folder: &Path, error: &dyn Display) -> Failure {
    Failure::new(
        Exit::Bucket,
        format!("the bucket folder {} cannot be written: {error}; make it writable or name another", folder.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let failure = open(&file.path().join("bucket")).unwrap_err();
        assert!(failure.exit == Exit::Bucket && failure.message.contains("cannot be written"), "{failure}");
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("v1/local/ada/photos");
        fs::create_dir_all(&deep).unwrap();
        for name in ["whole.png", "half.png#1", "half.png#27", "no#number"] {
            fs::write(deep.join(name), name).unwrap();
        }
        remove_unfinished(dir.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(deep).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["no#number", "whole.png"]);
    }

    #[test]
    fn a_new_folder_becomes_a_bucket_without_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/bucket");
        open(&path).unwrap();
        assert_eq!(fs::read_dir(path).unwrap().count(), 0);
    }
}
