//! After a restore: the store is held to what was forgotten since the backup was taken.

use likeness_proto::{ErrorCode, Refusal};

use super::forget;
use crate::bucket::Bucket;
use crate::store::{Cause, Store};

/// What a replay found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// Subjects that have tombstones.
    pub(crate) buried: usize,
    /// Those that the store held still, and that are forgotten again.
    pub(crate) forgotten: usize,
}

/// Subjects that are looked at together.
const PAGE: u32 = 1000;

/// Forgets whatever the store holds though a tombstone says that it was forgotten later than it came. What came after its tombstone stays.
/// May be done at any time, by several at once, and again.
pub(crate) async fn replay<S: Store>(store: &S, bucket: &Bucket) -> Result<Replayed, Refusal> {
    let tombstones = bucket.buried().await?;
    let mut replayed = Replayed { buried: tombstones.len(), forgotten: 0 };
    let mut last = None;
    while !tombstones.is_empty() {
        let page = store.subjects_after(last.as_ref(), PAGE).await?;
        for (tenant, subject, stored) in &page {
            let forgotten = tombstones.get(&store.policy().blind.subject(tenant, subject));
            let Some(at) = forgotten.filter(|at| stored <= at) else { continue };
            match forget(store, bucket, tenant, subject, &Cause::Replay(*at)).await {
                Ok(_receipt) => replayed.forgotten += 1,
                // Another coordinator was quicker, or somebody put it again.
                Err(refusal) if refusal.code == ErrorCode::UnknownSubject => {}
                Err(refusal) => return Err(refusal),
            }
        }
        let Some((tenant, subject, _)) = page.into_iter().next_back() else { break };
        last = Some((tenant, subject));
    }
    if replayed.forgotten > 0 {
        tracing::warn!(
            subjects = replayed.forgotten,
            "the store held what was forgotten, as after a restore; forgotten again"
        );
    }
    Ok(replayed)
}
