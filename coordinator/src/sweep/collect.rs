//! Garbage: what lies in the bucket and nothing refers to any more. Outputs of lost leases, of tasks that were cancelled or failed,
//! checkpoints of those that are done; and subjects whose tenant keeps them no longer.

use std::time::Duration;

use futures::TryStreamExt;
use likeness_proto::{ErrorCode, ObjectKey, Refusal, SubjectName, TenantId, subject_prefix};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::forget;
use crate::bucket::Bucket;
use crate::store::{Cause, Store};

/// Keys that are looked up together.
const BATCH: usize = 1000;

/// One coordinator's turn at the upkeep of all.
pub(crate) struct Turn<'a, S> {
    pub(crate) store: &'a S,
    pub(crate) own: Uuid,
    pub(crate) shutdown: &'a CancellationToken,
}

/// Whoever has the turn and falls silent loses it after this long.
const TURN: Duration = Duration::from_secs(60);

impl<S: Store> Turn<'_, S> {
    /// Takes or keeps the turn; asked before anything is removed.
    pub(crate) async fn goes_on(&self) -> Result<bool, Refusal> {
        Ok(!self.shutdown.is_cancelled() && self.store.take_turn("upkeep", self.own, TURN).await?)
    }
}

/// Looks through the whole bucket once, as long as it is the caller's turn. Answers how many objects went.
pub(crate) async fn collect<S: Store>(turn: &Turn<'_, S>, bucket: &Bucket) -> Result<usize, Refusal> {
    let store = turn.store;
    for (tenant, subject) in store.overdue().await? {
        if !turn.goes_on().await? {
            return Ok(0);
        }
        match forget(store, bucket, &tenant, &subject, &Cause::Retention).await {
            Ok(_receipt) => tracing::info!(%tenant, "subject forgotten, its tenant keeps it no longer"),
            // It was put again, or went, since the look.
            Err(refusal) if refusal.code == ErrorCode::UnknownSubject => {}
            Err(refusal) => return Err(refusal),
        }
    }
    let mut listed = bucket.list_all();
    let (mut gone, mut batch) = (0, Batch::default());
    loop {
        let next = listed.try_next().await?.map(|object| object.key);
        if let Some(full) = batch.push(next.as_ref()) {
            if !turn.goes_on().await? {
                return Ok(gone);
            }
            gone += remove(store, bucket, full).await?;
        }
        if next.is_none() {
            return Ok(gone);
        }
    }
}

async fn remove<S: Store>(store: &S, bucket: &Bucket, batch: Batch) -> Result<usize, Refusal> {
    let Some((tenant, subject)) = batch.of else { return Ok(0) };
    let garbage = store.garbage(&tenant, &subject, batch.keys).await?;
    bucket.delete(&subject_prefix(&tenant, &subject), &garbage).await?;
    Ok(garbage.len())
}

/// Keys of one subject, as they come.
#[derive(Default)]
struct Batch {
    of: Option<(TenantId, SubjectName)>,
    keys: Vec<ObjectKey>,
}

impl Batch {
    /// Takes the next key, or the end. Gives what came before when that is of another subject, or enough.
    fn push(&mut self, next: Option<&ObjectKey>) -> Option<Self> {
        let of = next.and_then(ObjectKey::owners);
        let full = (of != self.of || self.keys.len() >= BATCH).then(|| std::mem::take(self));
        self.of = of;
        self.keys.extend(next.cloned());
        full.filter(|batch| batch.of.is_some())
    }
}
