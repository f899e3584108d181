//! Objects of the bucket, shown.

use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::*;

#[tokio::test]
async fn a_picture_is_the_tenants_own_and_kept_by_its_browser_alone() {
    let site = Site::new().await;
    site.served.put("ada", &[("a.png", png(64, 48))]).await.unwrap();
    let photo = site.served.keys().await.pop().unwrap();
    let shown = site.owner().await.get(&format!("/objects/{photo}")).await;
    assert_eq!((shown.status, shown.header("content-type"), shown.whole), (200, "image/png", true));
    assert_eq!(shown.bytes, site.served.download(&photo).await.unwrap());
    assert!(shown.header("cache-control").starts_with("private"), "{:?}", shown.headers);
    assert_eq!(shown.header("vary"), "cookie");
    assert!(shown.header("content-security-policy").contains("sandbox"));
}

#[tokio::test]
async fn an_embedding_is_a_file_and_a_checkpoint_is_nothing() {
    let site = Site::new().await;
    let mut worker = Worker::registered(&site.served).await;
    let job = site.served.submitted().await;
    let grant = worker.lease_one().await;
    let checkpoint = worker.write(&grant, "checkpoint-000005.safetensors").await;
    worker.checkpoint(&grant, checkpoint.clone()).await.unwrap();
    worker.finish(&grant).await.unwrap();
    let owner = site.owner().await;
    assert_eq!(owner.get(&format!("/objects/{}", checkpoint.key)).await.status, 404);
    let job = site.served.get_job(&job).await;
    let key = &job.subjects[0].embedding.as_ref().unwrap().object.as_ref().unwrap().key;
    let file = owner.get(&format!("/objects/{key}")).await;
    assert_eq!((file.status, file.header("content-type")), (200, "application/octet-stream"));
    assert!(file.header("content-disposition").starts_with("attachment"));
}

#[tokio::test]
async fn a_corrupt_picture_is_not_shown() {
    let site = Site::new().await;
    site.served.put("ada", &[("a.png", png(64, 48))]).await.unwrap();
    let photo = site.served.keys().await.pop().unwrap();
    site.served.bucket.put(&Path::from(photo.as_str()), "something else".into()).await.unwrap();
    let shown = site.owner().await.get(&format!("/objects/{photo}")).await;
    assert_eq!((shown.status, shown.body.as_str()), (500, ""));
}

#[tokio::test]
async fn what_was_looked_at_is_in_the_audit_log() {
    let site = Site::new().await;
    site.served.put("ada", &[("a.png", png(64, 48))]).await.unwrap();
    let photo = site.served.keys().await.pop().unwrap();
    let key = site.key("default", Role::Viewer).await;
    site.signed_in(&key.token).await.get(&format!("/objects/{photo}")).await;
    let Site { served, .. } = site;
    let store = served.store();
    let (_folder, _bucket) = served.stop().await;
    let log = crate::audit::AuditLog::open(&store).await.unwrap();
    let last = log.after(0).await.unwrap().pop().unwrap();
    assert!(last.actor.to_string().contains(&key.key.unwrap().prefix), "{last:?}");
}
