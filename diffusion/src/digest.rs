//! The identity of a base model.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::LoadError;

/// Identity of a base model: `sha256:<64 hex digits>` over the files that define it.
///
/// The digest is the SHA-256 of what `sha256sum` prints for those files, sorted by relative path, one
/// `<hex>  <path>` a line, so anybody can recompute it with standard tools.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelDigest(String);

/// The text is no model digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no model digest: expected sha256: and 64 lower-case hex digits")]
pub struct BadDigest(String);

impl ModelDigest {
    /// Digests `files`, paths relative to `dir` with `/` between their parts; their order does not matter. `sha256` gives the
    /// digest of one in hex.
    ///
    /// # Errors
    /// [`LoadError::Io`] names the first file that cannot be read.
    pub(crate) fn of_files(
        dir: &Path,
        files: &[String],
        sha256: impl Fn(&Path) -> io::Result<String> + Sync,
    ) -> Result<Self, LoadError> {
        let mut sorted = files.to_vec();
        sorted.sort();
        let line = |file: &String| {
            let path = dir.join(file);
            let digest = sha256(&path).map_err(|source| LoadError::Io { path, source })?;
            Ok(format!("{digest}  {file}\n"))
        };
        let lines: Result<Vec<String>, LoadError> = sorted.par_iter().map(line).collect();
        Ok(Self(format!("sha256:{}", hex::encode(Sha256::digest(lines?.concat())))))
    }
}

/// SHA-256 of a file.
pub(crate) fn sha256(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 18];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hasher.finalize().into()),
            read => hasher.update(&block[..read]),
        }
    }
}

impl FromStr for ModelDigest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let digits = text.strip_prefix("sha256:").unwrap_or_default();
        let valid = digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| Self(text.to_owned())).ok_or_else(|| BadDigest(text.to_owned()))
    }
}

impl TryFrom<String> for ModelDigest {
    type Error = BadDigest;

    fn try_from(text: String) -> Result<Self, BadDigest> {
        text.parse()
    }
}

impl From<ModelDigest> for String {
    fn from(digest: ModelDigest) -> Self {
        digest.0
    }
}

impl fmt::Display for ModelDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ModelDigest {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_what_sha256sum_of_sha256sums_says() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b"), "two").unwrap();
        std::fs::write(dir.path().join("a"), "one").unwrap();
        let one = |path: &Path| sha256(path).map(hex::encode);
        let digest = ModelDigest::of_files(dir.path(), &["b".to_owned(), "a".to_owned()], one).unwrap();
        // printf one > a; printf two > b; sha256sum a b | sha256sum
        assert_eq!(digest.as_ref(), "sha256:d17138d96382403690482a89da33475336ab36c046a6912a86badedd62301cb8");
    }

    #[test]
    fn only_a_whole_digest_parses() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(good.parse::<ModelDigest>().unwrap().to_string(), good);
        for bad in ["", "sha256:", "0a", &good[..70], &good.to_uppercase()] {
            assert!(bad.parse::<ModelDigest>().is_err(), "{bad}");
        }
    }
}
