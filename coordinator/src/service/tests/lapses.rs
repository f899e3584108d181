//! Streams whose credential is revoked or expires while they are open.

use likeness_proto::Role;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::*;
use crate::Limits;

async fn served() -> Served {
    Served::with_limits(Limits { recheck: Duration::from_millis(20), ..Limits::default() }).await
}

#[tokio::test]
async fn an_open_watch_ends_when_its_key_is_revoked_and_others_go_on() {
    let served = served().await;
    let _worker = Worker::registered(&served).await;
    let job = served.submitted().await;
    let (kept, revoked) =
        (served.key_of("default", Role::Viewer, 0).await, served.key_of("default", Role::Viewer, 0).await);
    let mut watches = Vec::new();
    for key in [&kept, &revoked] {
        let request = v1::WatchJobRequest { job_id: job.id.clone() };
        let mut watch = served.people_with(&key.token).watch_job(request).await.unwrap().into_inner();
        watch.message().await.unwrap().unwrap();
        watches.push(watch);
    }
    let prefix = revoked.key.unwrap().prefix;
    served.admin().revoke_key(v1::RevokeKeyRequest { prefix }).await.unwrap();
    let status = watches[1].message().await.expect_err("it must end");
    assert_eq!(Refusal::read(&status).code, ErrorCode::Unauthenticated);
    assert!(status.message().contains("revoked"), "{status}");

    served.people().cancel_job(v1::CancelJobRequest { job_id: job.id }).await.unwrap();
    assert_eq!(watches[0].message().await.unwrap().unwrap().state(), JobState::Cancelled);
    assert!(watches[0].message().await.unwrap().is_none());
}

#[tokio::test]
async fn an_open_watch_ends_when_its_key_expires() {
    let served = served().await;
    let _worker = Worker::registered(&served).await;
    let job = served.submitted().await;
    let key = served.key_of("default", Role::Viewer, 1).await;
    let mut watch =
        served.people_with(&key.token).watch_job(v1::WatchJobRequest { job_id: job.id }).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let status = watch.message().await.expect_err("it must end");
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn an_upload_ends_when_its_key_is_revoked_and_leaves_nothing() {
    let served = served().await;
    let key = served.key_of("default", Role::Member, 0).await;
    let (sender, receiver) = mpsc::channel(1);
    let mut people = served.people_with(&key.token);
    let upload = tokio::spawn(async move { people.put_subject(ReceiverStream::new(receiver)).await });
    // More than fits into what is on the way: the upload has begun when all but the last of it is gone.
    let messages = parts("ada", &[("a.png", vec![0; 8 << 20])]);
    for message in messages.into_iter().rev().skip(1).rev() {
        sender.send(message).await.unwrap();
    }
    served.admin().revoke_key(v1::RevokeKeyRequest { prefix: key.key.unwrap().prefix }).await.unwrap();
    assert_eq!(upload.await.unwrap().unwrap_err().code(), Code::Unauthenticated);
    drop(sender);
    served.put("ada", &[("a.png", png(64, 48))]).await.unwrap();
}
