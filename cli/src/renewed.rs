//! Files that are replaced while a process uses them, as keys and certificates are when they are renewed.

use crate::exit::{Exit, Failure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// Files that settings name, and what they held at the last look. Never shown itself, since keys are among them.
#[derive(Clone)]
pub(crate) struct Files {
    named: Vec<(&'static str, PathBuf)>,
    held: Vec<Vec<u8>>,
}

impl Files {
    /// Those that are set, of setting and path.
    ///
    /// # Errors
    /// [`Exit::Setting`] when one cannot be read.
    pub(crate) fn read<'a>(
        named: impl IntoIterator<Item = (&'static str, Option<&'a PathBuf>)>,
    ) -> Result<Self, Failure> {
        let set = named.into_iter().filter_map(|(setting, path)| Some((setting, path?.clone())));
        let named: Vec<_> = set.collect();
        Ok(Self { held: contents(&named)?, named })
    }

    /// What the file of a setting held at the last look.
    pub(crate) fn get(&self, setting: &str) -> Option<&[u8]> {
        let at = self.named.iter().position(|(name, _)| *name == setting)?;
        Some(&self.held[at])
    }

    /// Looks whether they hold something else by now. While one cannot be read, the others do not count as changed either.
    pub(crate) fn look(&mut self) -> bool {
        match contents(&self.named) {
            Ok(held) if held != self.held => {
                self.held = held;
                true
            }
            Ok(_same) => false,
            Err(failure) => {
                tracing::debug!(%failure, "looked at again later");
                false
            }
        }
    }

    /// Waits until they hold something else.
    pub(crate) async fn changed(&mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.look() {
                return;
            }
        }
    }
}

fn contents(named: &[(&'static str, PathBuf)]) -> Result<Vec<Vec<u8>>, Failure> {
    named.iter().map(|(setting, path)| read(setting, path)).collect()
}

/// What the file of a setting holds.
///
/// # Errors
/// [`Exit::Setting`] when it cannot be read.
pub(crate) fn read(setting: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        Failure::new(Exit::Setting, format!("cannot read {}, which {setting} names: {error}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_replaced_is_seen_and_what_is_missing_for_a_moment_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let [cert, key] = ["cert", "key"].map(|name| folder.path().join(name));
        for path in [&cert, &key] {
            std::fs::write(path, "old").unwrap();
        }
        let mut files = Files::read([("tls_cert", Some(&cert)), ("tls_key", Some(&key)), ("tls_ca", None)]).unwrap();
        assert!(!files.look());
        std::fs::remove_file(&cert).unwrap();
        assert!(!files.look());
        std::fs::write(&cert, "new").unwrap();
        assert!(files.look() && !files.look());
        assert_eq!((files.get("tls_cert"), files.get("tls_key")), (Some(&b"new"[..]), Some(&b"old"[..])));
        assert_eq!(files.get("tls_ca"), None);
    }
}
