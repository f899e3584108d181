//! Sweeping the bucket: of a subject that was forgotten, and of what uploads left behind that never ended well.

mod collect;
mod replay;

use likeness_proto::v1::ForgetReceipt;
use likeness_proto::{ObjectKind, Refusal, SubjectName, TenantId, kind_of, subject_prefix};

use crate::bucket::{Bucket, Listed};
use crate::store::{Cause, Erasure, Store, Sweep};

pub(crate) use collect::{Turn, collect};
pub(crate) use replay::{Replayed, replay};

/// Forgets a subject and says what was erased. When the bucket fails meanwhile, the sweep stays owed.
pub(crate) async fn forget<S: Store>(
    store: &S,
    bucket: &Bucket,
    tenant: &TenantId,
    subject: &SubjectName,
    cause: &Cause,
) -> Result<ForgetReceipt, Refusal> {
    let forgotten = store.forget(tenant, subject, cause).await?;
    let erased = sweep(store, bucket, &forgotten.erasure).await?;
    let blind = &store.policy().blind;
    let count = |kind| erased.iter().filter(|object| kind_of(&object.key) == kind).count() as u32;
    Ok(ForgetReceipt {
        receipt_id: forgotten.erasure.id,
        subject: subject.to_string(),
        erased_at: Some(forgotten.at.into()),
        photos: count(ObjectKind::Photo),
        checkpoints: count(ObjectKind::Checkpoint),
        embeddings: count(ObjectKind::Embedding),
        avatars: count(ObjectKind::Avatar),
        others: count(ObjectKind::Other),
        bytes: erased.iter().map(|object| object.size).sum(),
        jobs: forgotten.jobs,
        objects: erased.iter().map(|object| blind.object(&object.key).as_bytes().to_vec()).collect(),
        audit_sequence: forgotten.entry.sequence,
        audit_hash: forgotten.entry.hash.as_bytes().to_vec(),
    })
}

/// Does the sweeps that are owed; one that fails is owed still.
pub(crate) async fn owed<S: Store>(store: &S, bucket: &Bucket, which: Sweep) -> Result<(), Refusal> {
    for erasure in store.owed(which).await? {
        match sweep(store, bucket, &erasure).await {
            Ok(erased) if erased.is_empty() => {}
            Ok(erased) => tracing::info!(subject = %erasure.subject, objects = erased.len(), "late objects erased"),
            Err(error) => tracing::warn!(subject = %erasure.subject, %error, "sweep failed, will be tried again"),
        }
    }
    Ok(())
}

/// Erases what lies under a subject's prefix and belongs to nothing known. Answers what was erased.
async fn sweep<S: Store>(store: &S, bucket: &Bucket, erasure: &Erasure) -> Result<Vec<Listed>, Refusal> {
    if let Some(tombstone) = &erasure.tombstone {
        // Before anything else: once the sweep has ended, only the bucket knows that this was to be forgotten, should the store be restored.
        let hash = store.policy().blind.subject(&erasure.tenant, &erasure.subject);
        bucket.bury(hash, tombstone).await?;
    }
    let prefix = subject_prefix(&erasure.tenant, &erasure.subject);
    let listed = bucket.list(&prefix).await?;
    let keys = listed.iter().map(|object| object.key.clone()).collect();
    let unknown = store.unknown(erasure, keys).await?;
    bucket.delete(&prefix, &unknown).await?;
    store.swept(erasure).await?;
    Ok(listed.into_iter().filter(|object| unknown.contains(&object.key)).collect())
}
