//! What is left of a subject that was forgotten: a receipt, a tombstone and an entry of the log; nothing else, after a restore neither.

use likeness_proto::v1::admin_client::AdminClient;
use likeness_proto::{Bearer, ObjectKey};

use super::*;
use crate::audit::{Action, AuditLog, Blind};

fn blind() -> Blind {
    Blind::new(&secret("pepper"))
}

async fn actions(served: &Served) -> Vec<Action> {
    let log = AuditLog::open(&served.store()).await.unwrap();
    log.verify(None).await.unwrap();
    log.after(0).await.unwrap().iter().map(|entry| Action::of(entry.action).unwrap()).collect()
}

#[tokio::test]
async fn a_receipt_tells_of_every_object_and_of_the_entry_in_the_log() {
    let served = Served::new().await;
    let mut worker = Worker::registered(&served).await;
    served.submitted().await;
    for _ in 0..3 {
        let grant = worker.lease_one().await;
        worker.finish(&grant).await.unwrap();
    }
    let keys = served.keys().await;
    let mut hashes: Vec<_> =
        keys.iter().map(|key| blind().object(&key.parse::<ObjectKey>().unwrap()).as_bytes().to_vec()).collect();

    let mut receipt = served.forget("ada").await;

    hashes.sort();
    receipt.objects.sort();
    assert_eq!((hashes.len(), &receipt.objects), (4, &hashes), "photo, embedding, avatar, contact sheet");
    let log = AuditLog::open(&served.store()).await.unwrap();
    let entry = log.after(receipt.audit_sequence - 1).await.unwrap().swap_remove(0);
    assert_eq!(Action::of(entry.action), Some(Action::SubjectForgotten));
    assert_eq!(receipt.audit_hash, entry.hash.as_bytes());
    assert_eq!(entry.target, blind().subject(&"default".parse().unwrap(), &"ada".parse().unwrap()));
    assert_eq!(
        prost_types::Timestamp::from(crate::clock::Timestamp::from_millis(entry.at)),
        receipt.erased_at.unwrap()
    );
    assert_eq!(log.verify(Some(entry.hash)).await.unwrap().head, entry.hash, "the receipt's hash is a head");
}

#[tokio::test]
async fn a_download_is_logged_with_what_was_read() {
    let served = Served::new().await;
    served.put("ada", &[("a.png", png(64, 48))]).await.unwrap();
    let photo = served.keys().await.swap_remove(0);
    served.download(&photo).await.unwrap();
    served.people().get_download_link(v1::DownloadRequest { key: photo }).await.unwrap();
    let downloaded = Action::Downloaded(likeness_proto::ObjectKind::Photo);
    let want = [Action::TenantCreated, Action::SubjectPut, downloaded];
    assert_eq!(actions(&served).await, want, "a link that this bucket cannot sign is none");
}

/// Puts a subject whose photos came later than `than`.
async fn put_later(served: &Served, subject: &str, than: &v1::ForgetReceipt) {
    loop {
        let stored = served.put(subject, &[("a.png", png(40, 40))]).await.unwrap().subject.unwrap();
        let at = |time: Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos));
        if at(stored.stored_at) > at(than.erased_at) {
            return;
        }
    }
}

#[tokio::test]
async fn a_restored_backup_does_not_bring_back_what_was_forgotten() {
    let served = Served::new().await;
    served.put("ada", &[("a.png", png(64, 48))]).await.unwrap();
    let adas = served.keys().await.swap_remove(0);
    served.put("cleo", &[("a.png", png(32, 32))]).await.unwrap();
    let receipt = served.forget("cleo").await;
    put_later(&served, "cleo", &receipt).await;
    let (folder, bucket) = served.stop().await;
    let (file, backup) = (folder.path().join("likeness.db"), folder.path().join("backup.db"));
    std::fs::copy(&file, &backup).unwrap();
    let photo = bucket.get(&Path::from(adas.as_str())).await.unwrap().bytes().await.unwrap();

    let served = Served::over(folder, bucket, Duration::from_secs(60)).await;
    served.forget("ada").await;
    let (folder, bucket) = served.stop().await;
    std::fs::copy(&backup, &file).unwrap();
    bucket.put(&Path::from(adas.as_str()), photo.into()).await.unwrap(); // the bucket was restored too, but for its tombstones

    let served = Served::over(folder, bucket, Duration::from_secs(60)).await;
    let subjects = served.people().list_subjects(v1::ListSubjectsRequest {}).await.unwrap().into_inner().subjects;
    let names: Vec<_> = subjects.iter().map(|subject| subject.name.as_str()).collect();
    assert_eq!(names, ["cleo"], "she was put after her tombstone");
    assert_eq!(served.keys().await.len(), 1, "and only her photo lies there");
    served.download(&subjects[0].photos[0].object.as_ref().unwrap().key).await.unwrap();
    assert!(actions(&served).await.contains(&Action::ErasureReplayed));
    let tombstones = served.keys_under("forgotten").await.join(" ");
    assert!(!tombstones.contains("ada") && !tombstones.contains("cleo") && !tombstones.contains("default"));
}

#[tokio::test]
async fn an_administrator_has_erasures_replayed_without_a_restart() {
    let served = Served::new().await;
    let put = served.put("ada", &[("a.png", png(64, 48))]).await.unwrap().subject.unwrap();
    served.put("bob", &[("a.png", png(64, 48))]).await.unwrap();
    // What a coordinator over another copy of the store wrote.
    let hash = blind().subject(&"default".parse().unwrap(), &"ada".parse().unwrap());
    let at = put.stored_at.unwrap().seconds * 1000 + 1000;
    served.bucket.put(&Path::from(format!("forgotten/{hash}/{at}")), "".into()).await.unwrap();
    let mut admin = AdminClient::with_interceptor(served.channel.clone(), Bearer::new(&secret("right")));
    let answer = admin.replay_erasures(v1::ReplayErasuresRequest {}).await.unwrap().into_inner();
    assert_eq!((answer.buried, answer.forgotten), (1, 1));
    let answer = admin.replay_erasures(v1::ReplayErasuresRequest {}).await.unwrap().into_inner();
    assert_eq!((answer.buried, answer.forgotten), (1, 0), "there is nothing left to do");
    let keys = served.keys().await;
    assert!(keys.len() == 1 && keys[0].contains("/bob/"), "{keys:?}");
}

#[tokio::test]
async fn a_crash_after_the_forgetting_loses_no_tombstone() {
    let served = Served::new().await;
    served.put("ada", &[("a.png", png(64, 48))]).await.unwrap();
    let (folder, bucket) = served.stop().await;
    // The transaction was committed, and the process died before it wrote anything into the bucket.
    let file = folder.path().join("likeness.db");
    let policy = crate::store::Policy { lease: Duration::from_secs(60), attempts: 3, base_model: None, blind: blind() };
    let store = crate::store::sqlite::SqliteStore::open(&file, None, policy).await.unwrap();
    let cause = crate::store::Cause::Asked(crate::audit::Actor::embedded());
    use crate::store::Store;
    store.forget(&"default".parse().unwrap(), &"ada".parse().unwrap(), &cause).await.unwrap();
    store.close().await;

    let served = Served::over(folder, bucket, Duration::from_secs(60)).await;
    served.people().list_jobs(v1::ListJobsRequest::default()).await.unwrap();
    assert_eq!(served.keys().await, Vec::<String>::new());
    assert_eq!(served.keys_under("forgotten").await.len(), 1);
}
