//! What a bucket may keep of objects beside them.

use std::fmt;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use object_store::path::Path;

/// Something that a bucket keeps beside its objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relic {
    /// The object's place.
    pub path: Path,
    /// What it is.
    pub kind: RelicKind,
    /// Bytes, where the bucket tells.
    pub size: u64,
}

/// What a bucket keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelicKind {
    /// A version of the object, the present one too, or the mark of a deletion; by its id.
    Version(String),
    /// An upload in parts that was not completed; by its id.
    Upload(String),
}

/// Finds and removes what a bucket keeps beside its objects: versions, if it keeps versions, and parts of uploads.
pub trait History: fmt::Debug + Send + Sync + 'static {
    /// All that is kept under a prefix. The present versions are among them where the bucket keeps versions, and else not.
    fn kept(&self, under: &Path) -> BoxStream<'static, object_store::Result<Relic>>;
    /// Removes it for good; what is gone already is no error.
    fn erase<'a>(&'a self, relic: &'a Relic) -> BoxFuture<'a, object_store::Result<()>>;
}
