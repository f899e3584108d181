//! The state folder: what a server keeps, and how a client finds the server.
//!
//! | name | what |
//! |---|---|
//! | `token` | the access token, for its owner alone |
//! | `pepper` | the secret that API keys are hashed under, for its owner alone |
//! | `address` | where the server listens |
//! | `lock` | held by the process that serves |
//! | `likeness.db` | the store |
//! | `bucket/` | the objects |
//! | `curve.json` | what training steps were measured to take |
//! | `likeness.toml` | settings, if there are any |

use crate::exit::{Exit, Failure};
use crate::files;
use crate::settings::read_token;
use likeness_proto::Secret;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A state folder, which may not be there yet.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

/// A state folder that this process alone serves, until dropped.
#[derive(Debug)]
pub struct LockedState {
    dir: StateDir,
    // Unlocked when closed, however the process ends.
    _lock: File,
}

impl StateDir {
    /// The folder at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The store's file.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.0.join("likeness.db")
    }

    /// The pepper's file.
    #[must_use]
    pub fn pepper_file(&self) -> PathBuf {
        self.0.join("pepper")
    }

    /// The file of the measured curve.
    #[must_use]
    pub fn curve(&self) -> PathBuf {
        self.0.join("curve.json")
    }

    /// The bucket's folder.
    #[must_use]
    pub fn bucket(&self) -> PathBuf {
        self.0.join("bucket")
    }

    /// The access token's file.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.0.join("token")
    }

    /// Where the server of this folder listens, or listened last; `None`: there never was one.
    ///
    /// # Errors
    /// [`Exit::State`] when the file cannot be read or holds no address.
    pub fn address(&self) -> Result<Option<SocketAddr>, Failure> {
        let path = self.0.join("address");
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map(Some).map_err(|error| unusable(&path, &error)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unusable(&path, &error)),
        }
    }

    /// Makes the folder (for its owner alone) if needed.
    ///
    /// # Errors
    /// [`Exit::State`] when it cannot be made.
    pub fn make(&self) -> Result<(), Failure> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(|error| unusable(&self.0, &error))
    }

    /// As [`Self::make`], and takes its lock.
    ///
    /// # Errors
    /// [`Exit::State`] when another process serves it, or it cannot be used.
    pub fn lock(self) -> Result<LockedState, Failure> {
        self.make()?;
        let path = self.0.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| unusable(&path, &error))?;
        match lock.try_lock() {
            Ok(()) => Ok(LockedState { dir: self, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(self.taken()),
            Err(TryLockError::Error(error)) => Err(unusable(&path, &error)),
        }
    }

    fn taken(&self) -> Failure {
        let address = self.address().ok().flatten().map_or_else(String::new, |address| format!(" at {address}"));
        Failure::new(
            Exit::State,
            format!(
                "the state folder {} is served by another process{address}; stop it, or name another folder with --state",
                self.0.display()
            ),
        )
    }
}

impl LockedState {
    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &StateDir {
        &self.dir
    }

    /// The access token; made on the first call, readable by its owner alone.
    ///
    /// # Errors
    /// [`Exit::Token`] when it cannot be read, [`Exit::DiskFull`] or [`Exit::Output`] when it cannot be made.
    pub fn token(&self) -> Result<Secret, Failure> {
        secret(&self.dir.token_file())
    }

    /// The secret that API keys are hashed under; made and kept as the token is.
    ///
    /// # Errors
    /// As [`Self::token`].
    pub fn pepper(&self) -> Result<Secret, Failure> {
        secret(&self.dir.pepper_file())
    }

    /// Tells clients where the server listens.
    ///
    /// # Errors
    /// [`Exit::DiskFull`] or [`Exit::Output`] when it cannot be written.
    pub fn announce(&self, address: SocketAddr) -> Result<(), Failure> {
        files::write(&self.dir.0.join("address"), format!("{address}\n").as_bytes())
    }
}

/// The secret in a file; made if it is not there.
fn secret(path: &Path) -> Result<Secret, Failure> {
    if !path.exists() {
        make_token(path).map_err(|error| files::cannot_write(path, &error))?;
    }
    read_token(path)
}

/// Writes 256 random bits: to a file beside `path` first, so that `path` is never half a token.
fn make_token(path: &Path) -> io::Result<()> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map_err(io::Error::other)?;
    let part = path.with_extension("part");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    writeln!(file, "{}", hex::encode(bits))?;
    file.sync_all()?;
    fs::rename(&part, path)
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::State, format!("cannot use {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_token_is_made_once_and_is_its_owners_alone() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::at(home.path().join("deep/state")).lock().unwrap();
        let token = state.token().unwrap();
        assert_eq!(token.expose().len(), 64);
        assert_eq!(state.token().unwrap(), token);
        assert_eq!(mode(&state.dir().token_file()), 0o600);
        assert_eq!(mode(state.dir().path()), 0o700);
    }

    #[test]
    fn a_state_folder_is_served_by_one_process_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let first = StateDir::at(home.path()).lock().unwrap();
        first.announce("127.0.0.1:7431".parse().unwrap()).unwrap();
        let refused = StateDir::at(home.path()).lock().unwrap_err();
        assert_eq!(refused.exit, Exit::State);
        assert!(refused.message.contains("another process at 127.0.0.1:7431"), "{refused}");
        drop(first);
        StateDir::at(home.path()).lock().unwrap();
    }

    #[test]
    fn the_address_is_there_once_announced() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::at(home.path());
        assert_eq!(state.address().unwrap(), None);
        state.clone().lock().unwrap().announce("127.0.0.1:9".parse().unwrap()).unwrap();
        assert_eq!(state.address().unwrap(), Some("127.0.0.1:9".parse().unwrap()));
    }

    #[test]
    fn a_file_in_place_of_the_state_folder_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let failure = StateDir::at(file.path()).lock().unwrap_err();
        assert!(failure.exit == Exit::State && failure.message.contains("cannot use"), "{failure}");
    }
}
