//! Tombstones: what is kept of a forgetting outside the store, so that a restored backup of it is held to what was forgotten since. Nothing
//! in them names anybody: `forgotten/{keyed hash of tenant and subject}/{milliseconds since the Unix epoch}`, and in it the place of the audit
//! entry.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use likeness_proto::{Refusal, Sha256};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::{Bucket, failed};
use crate::clock::Timestamp;
use crate::store::Tombstone;

const ROOT: &str = "forgotten";

impl Bucket {
    /// Writes a tombstone of `subject`; the same again changes nothing.
    pub(crate) async fn bury(&self, subject: Sha256, tombstone: &Tombstone) -> Result<(), Refusal> {
        let Tombstone { at, entry } = tombstone;
        let path = Path::from(format!("{ROOT}/{subject}/{}", at.millis()));
        let text = format!("audit entry {} {}\n", entry.sequence, entry.hash);
        let put = self.store.put(&path, text.into()).await;
        put.map(drop).map_err(|error| failed("write", path.as_ref(), &error))
    }

    /// Every subject that has tombstones, by its hash, and when it was forgotten last.
    pub(crate) async fn buried(&self) -> Result<BTreeMap<Sha256, Timestamp>, Refusal> {
        let mut buried = BTreeMap::new();
        let mut listed = self.store.list(Some(&Path::from(ROOT)));
        while let Some(meta) = listed.try_next().await.map_err(|error| failed("list", ROOT, &error))? {
            if let Some((subject, at)) = parsed(&meta.location) {
                let last = buried.entry(subject).or_insert(at);
                *last = at.max(*last);
            }
        }
        Ok(buried)
    }
}

/// What a tombstone's key says. Names that say nothing are left out: nothing of ours wrote them.
fn parsed(path: &Path) -> Option<(Sha256, Timestamp)> {
    let mut segments = path.as_ref().split('/').skip(1);
    let (subject, at) = (segments.next()?, segments.next()?);
    Some((subject.parse().ok()?, Timestamp::from_millis(at.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::audit::Point;

    #[tokio::test]
    async fn the_last_of_a_subject_s_tombstones_counts() {
        let bucket = Bucket::new(Arc::new(InMemory::new()), None);
        let (ada, bob) = (Sha256::of(b"ada"), Sha256::of(b"bob"));
        for (subject, millis) in [(ada, 900), (ada, 1_000), (ada, 70), (bob, 5)] {
            let entry = Point { sequence: 1, hash: ada };
            let at = Timestamp::from_millis(millis);
            bucket.bury(subject, &Tombstone { at, entry }).await.unwrap();
        }
        let millis: Vec<_> = bucket.buried().await.unwrap().into_iter().map(|(who, at)| (who, at.millis())).collect();
        let mut want = vec![(ada, 1_000), (bob, 5)];
        want.sort();
        assert_eq!(millis, want);
    }
}
