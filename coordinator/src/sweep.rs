//! Sweeping the bucket: of a subject that was forgotten, and of what uploads left behind that never ended well.

mod collect;

use likeness_proto::v1::ForgetReceipt;
use likeness_proto::{ObjectKind, Refusal, SubjectName, TenantId, kind_of, subject_prefix};

use crate::bucket::{Bucket, Listed};
use crate::store::{Erasure, Store, Sweep};

pub(crate) use collect::{Turn, collect};

/// Forgets a subject and says what was erased. When the bucket fails meanwhile, the sweep stays owed.
pub(crate) async fn forget<S: Store>(
    store: &S,
    bucket: &Bucket,
    tenant: &TenantId,
    subject: &SubjectName,
) -> Result<ForgetReceipt, Refusal> {
    let forgotten = store.forget(tenant, subject).await?;
    let erased = sweep(store, bucket, &forgotten.erasure).await?;
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
    let listed = bucket.list(&subject_prefix(&erasure.tenant, &erasure.subject)).await?;
    let keys = listed.iter().map(|object| object.key.clone()).collect();
    let unknown = store.unknown(erasure, keys).await?;
    for key in &unknown {
        bucket.delete(key).await?;
    }
    store.swept(erasure).await?;
    Ok(listed.into_iter().filter(|object| unknown.contains(&object.key)).collect())
}
