//! Opens the bucket that objects lie in: a folder, or one of S3.

mod folder;
mod history;
mod s3;
mod timed;

use crate::exit::{Exit, Failure};
use crate::settings::Settings;
use crate::state_dir::StateDir;
use likeness_coordinator::History;
use object_store::ObjectStore;
use object_store::signer::Signer;
use std::path::PathBuf;
use std::sync::Arc;

pub use s3::S3;
use timed::Timed;

/// Where a bucket is.
#[derive(Clone, Debug)]
pub enum Address {
    /// A folder of this machine, or of a file system that all machines share.
    Folder(PathBuf),
    /// A bucket that speaks S3.
    S3(S3),
}

/// An open bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Its objects.
    pub store: Arc<dyn ObjectStore>,
    /// Signs links to them, where it knows such.
    pub links: Option<Arc<dyn Signer>>,
    /// Finds what it keeps beside them, if it keeps anything.
    pub history: Option<Arc<dyn History>>,
}

impl Address {
    /// What the settings say; without a word, `bucket` in the state folder.
    ///
    /// # Errors
    /// [`Exit::Setting`] for another kind of URL.
    pub fn of(settings: &Settings, state: &StateDir) -> Result<Self, Failure> {
        let Some(url) = settings.bucket.as_deref() else { return Ok(Self::Folder(state.bucket())) };
        if let Some(path) = url.strip_prefix("file://").filter(|path| path.starts_with('/')) {
            return Ok(Self::Folder(path.into()));
        }
        if let Some(rest) = url.strip_prefix("s3://").filter(|rest| !rest.is_empty() && !rest.starts_with('/')) {
            return Ok(Self::S3(S3::named(rest, settings)));
        }
        Err(Failure::new(
            Exit::Setting,
            format!("the bucket `{url}` is not supported; file:///FOLDER and s3://BUCKET/PREFIX are accepted"),
        ))
    }

    /// Opens it; a folder is made if needed, and its writes are synced before they are said to be done.
    ///
    /// # Errors
    /// [`Exit::Bucket`] when a folder cannot be made or written, [`Exit::Setting`] when what is said of the other cannot be.
    pub fn open(&self) -> Result<Bucket, Failure> {
        let bucket = match self {
            Self::Folder(path) => Bucket { store: folder::open(path)?, links: None, history: None },
            Self::S3(s3) => s3.open()?,
        };
        Ok(Bucket { store: Arc::new(Timed(bucket.store)), ..bucket })
    }

    /// Removes what a process left that was killed while it wrote. Only while nobody else writes to the bucket.
    ///
    /// # Errors
    /// [`Exit::Bucket`] when a leftover cannot be removed.
    pub fn remove_unfinished(&self) -> Result<(), Failure> {
        match self {
            Self::Folder(path) => folder::remove_unfinished(path),
            // Nothing can be seen of an upload that is not whole, and it is the bucket's to remove.
            Self::S3(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Sources;

    fn address(url: Option<&str>) -> Result<Address, Failure> {
        let flags = url.map(|url| ("bucket", url.to_owned())).into_iter().collect();
        let settings = Settings::resolve(&Sources { flags, ..Sources::default() }).unwrap().settings;
        Address::of(&settings, &StateDir::at("/state"))
    }

    #[test]
    fn an_url_names_a_folder_or_a_bucket() {
        let folder = |url| match address(url).unwrap() {
            Address::Folder(path) => path,
            Address::S3(s3) => panic!("{s3:?} is no folder"),
        };
        assert_eq!(folder(Some("file:///data/bucket")), PathBuf::from("/data/bucket"));
        assert_eq!(folder(None), PathBuf::from("/state/bucket"));
        assert!(matches!(address(Some("s3://avatars/live")).unwrap(), Address::S3(_)));
    }

    #[test]
    fn other_urls_are_refused_by_name() {
        for url in ["gs://bucket", "bucket", "file://host/path", "s3://", "s3:///x"] {
            let failure = address(Some(url)).unwrap_err();
            assert!(failure.exit == Exit::Setting && failure.message.contains(url), "{failure}");
        }
    }
}
