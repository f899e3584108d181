//! The whole coordinator over real gRPC on loopback, with an in-memory bucket.

mod certificates;
mod erasure;
mod floods;
mod lapses;
mod limits;
mod reflection;
pub(crate) mod served;
mod tenants;

use std::sync::Arc;
use std::time::Duration;

use likeness_proto::v1::avatars_client::AvatarsClient;
use likeness_proto::v1::put_subject_request::Part;
use likeness_proto::v1::workers_client::WorkersClient;
use likeness_proto::v1::{self, JobState, PutSubjectRequest, SubjectState};
use likeness_proto::{ErrorCode, ObjectRef, PROTOCOL_VERSION, Prefix, Refusal};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{CoordinatorError, Options, StoreAddress, Tokens, run};

use served::*;

#[tokio::test]
async fn from_photos_to_downloads_watched_and_forgotten() {
    let served = Served::new().await;
    let mut worker = Worker::registered(&served).await;
    let job = served.submitted().await;
    let watch = v1::WatchJobRequest { job_id: job.id.clone() };
    let mut watched = served.people().watch_job(watch).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().revision, job.revision);
    for _ in 0..3 {
        let grant = worker.lease_one().await;
        worker.finish(&grant).await.unwrap();
    }

    let (mut last, mut revision) = (job, 0);
    while let Some(next) = watched.message().await.unwrap() {
        assert!(next.revision > revision, "revisions only grow");
        (revision, last) = (next.revision, next);
    }
    assert_eq!(last.state(), JobState::Succeeded, "the watch ends with the job");
    let ada = &last.subjects[0];
    let avatar = ada.avatars[0].object.as_ref().unwrap();
    assert_eq!(served.download(&avatar.key).await.unwrap(), b"00000.png");
    assert_eq!(served.download(&ada.contact_sheet.as_ref().unwrap().key).await.unwrap(), b"contact-sheet.png");

    let forget = v1::ForgetSubjectRequest { subject: "ada".into() };
    let receipt = served.people().forget_subject(forget).await.unwrap().into_inner();
    let counts = [receipt.photos, receipt.checkpoints, receipt.embeddings, receipt.avatars, receipt.others];
    assert_eq!(counts, [1, 0, 1, 1, 1]);
    assert!(receipt.bytes > 0 && receipt.jobs == [last.id]);
    assert_eq!(served.keys().await, Vec::<String>::new());
    assert_eq!(served.download(&avatar.key).await.unwrap_err().code, ErrorCode::UnknownObject);
}

#[tokio::test]
async fn no_call_is_served_without_the_token() {
    let served = Served::new().await;
    let mut stranger = AvatarsClient::new(served.channel.clone());
    let status = stranger.list_jobs(v1::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!(Refusal::read(&status).code, ErrorCode::Unauthenticated);
    let status = served.people_with("wrong").list_jobs(v1::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    let upload = futures::stream::iter(parts("ada", &[("a.png", png(8, 8))]));
    assert!(served.people_with("wrong").put_subject(upload).await.is_err());
    let mut stranger = WorkersClient::new(served.channel.clone());
    assert!(stranger.lease(v1::LeaseRequest::default()).await.is_err());
    assert!(served.people().list_jobs(v1::ListJobsRequest::default()).await.is_ok());
}

#[tokio::test]
async fn an_upload_is_stored_as_a_whole_with_warnings() {
    let served = Served::new().await;
    let photos = [("a.png", png(64, 48)), ("b.png", png(32, 32)), ("copy.png", png(64, 48))];
    let answer = served.put("ada", &photos).await.unwrap();
    assert_eq!(answer.warnings[0].code(), v1::WarningCode::DuplicatePhoto);
    let subject = answer.subject.unwrap();
    assert_eq!(subject.photos.len(), 2);
    let object = ObjectRef::try_from(subject.photos[0].object.clone().unwrap()).unwrap();
    let bytes = served.download(object.key.as_str()).await.unwrap();
    assert_eq!(ObjectRef::of(object.key.clone(), &bytes), object);
    let listed = served.people().list_subjects(v1::ListSubjectsRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.subjects, [subject]);
}

#[tokio::test]
async fn a_bad_upload_leaves_nothing_and_names_every_bad_file() {
    let served = Served::new().await;
    let photos = [("a.png", png(64, 48)), ("cut.png", png(64, 48)[..60].to_vec()), ("note.txt", b"hello".to_vec())];
    let refusal = served.put("ada", &photos).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::ImageDamaged);
    assert!(refusal.message.contains("cut.png") && refusal.message.contains("note.txt"), "{refusal}");
    let request = v1::GetSubjectRequest { subject: "ada".into() };
    let status = served.people().get_subject(request).await.unwrap_err();
    assert_eq!(Refusal::read(&status).code, ErrorCode::UnknownSubject);
    let served = served.restarted().await;
    served.people().list_jobs(v1::ListJobsRequest::default()).await.unwrap();
    assert_eq!(served.keys().await, Vec::<String>::new(), "the good file went too");
}

#[tokio::test]
async fn an_upload_without_photos_or_consent_is_refused() {
    let served = Served::new().await;
    assert_eq!(served.put("ada", &[]).await.unwrap_err().code, ErrorCode::NoPhotos);
    let header = v1::SubjectHeader { subject: "ada".into(), consent: None };
    let parts = [PutSubjectRequest { part: Some(Part::Header(header)) }];
    let status = served.people().put_subject(futures::stream::iter(parts)).await.unwrap_err();
    assert_eq!(Refusal::read(&status).code, ErrorCode::ConsentMissing);
}

#[tokio::test]
async fn a_photo_must_have_the_length_announced() {
    let served = Served::new().await;
    let mut short = parts("ada", &[("a.png", png(8, 8))]);
    let Some(Part::Photo(header)) = &mut short[1].part else { panic!("the photo's header comes second") };
    header.size += 1;
    let status = served.people().put_subject(futures::stream::iter(short)).await.unwrap_err();
    assert!(status.message().contains("a.png"), "{status}");
    // Another one: what the first left behind may be being swept.
    let mut huge = parts("bob", &[("a.png", png(8, 8))]);
    let Some(Part::Photo(header)) = &mut huge[1].part else { panic!("the photo's header comes second") };
    header.size = (64 << 20) + 1;
    let status = served.people().put_subject(futures::stream::iter(huge)).await.unwrap_err();
    assert_eq!(Refusal::read(&status).code, ErrorCode::ImageTooLarge);
}

#[tokio::test]
async fn a_job_without_a_fleet_is_refused() {
    let served = Served::new().await;
    served.put("ada", &[("a.png", png(64, 48))]).await.unwrap();
    let status = served.people().submit_job(request()).await.unwrap_err();
    assert_eq!(Refusal::read(&status).code, ErrorCode::ModelUnavailable);
}

#[tokio::test]
async fn the_same_key_with_another_request_already_exists() {
    let served = Served::new().await;
    let _worker = Worker::registered(&served).await;
    let job = served.submitted().await;
    assert_eq!(served.people().submit_job(request()).await.unwrap().into_inner().id, job.id);
    let other =
        v1::SubmitJobRequest { train: Some(v1::TrainSpec { seed: Some(7), ..Default::default() }), ..request() };
    let status = served.people().submit_job(other).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::AlreadyExists);
}

#[tokio::test]
async fn a_worker_of_another_protocol_is_refused_naming_both() {
    let served = Served::new().await;
    let mut worker = Worker::registered(&served).await;
    let request = v1::RegisterRequest { protocol_version: 99, ..worker.registration() };
    let status = worker.fleet.register(request).await.unwrap_err();
    assert_eq!(Refusal::read(&status).code, ErrorCode::VersionMismatch);
    assert!(status.message().contains("99") && status.message().contains(&PROTOCOL_VERSION.to_string()));
}

#[tokio::test]
async fn a_waiting_worker_is_woken_by_a_job() {
    let served = Served::new().await;
    let mut worker = Worker::registered(&served).await;
    assert!(worker.lease(0).await.is_empty());
    let (grants, job) = tokio::join!(worker.lease(30_000), served.submitted());
    assert_eq!(grants[0].job_id, job.id);
}

#[tokio::test]
async fn a_result_counts_only_with_its_objects_in_the_bucket_under_its_prefix() {
    let served = Served::new().await;
    let mut worker = Worker::registered(&served).await;
    let job = served.submitted().await;
    let grant = worker.lease_one().await;
    let trained = |object: ObjectRef| {
        let outcome = Some(v1::TrainOutcome { steps: 5, stop_reason: 1, ..Default::default() });
        v1::complete_request::Result::Train(v1::TrainResult { embedding: Some(object.into()), outcome, last: None })
    };
    let prefix: Prefix = grant.output_prefix.parse().unwrap();
    let missing = ObjectRef::of(prefix.key("embedding.safetensors").unwrap(), b"never written");
    assert_eq!(worker.complete(&grant, trained(missing)).await.unwrap_err().code, ErrorCode::UnknownObject);
    let photo = served.get_subject_photo().await;
    assert_eq!(worker.complete(&grant, trained(photo.clone())).await.unwrap_err().code, ErrorCode::InvalidArgument);
    assert_eq!(worker.checkpoint(&grant, photo).await.unwrap_err().code, ErrorCode::InvalidArgument);
    assert!(served.get_job(&job).await.subjects[0].trained.is_none());

    let object = worker.write(&grant, "checkpoint-000005.safetensors").await;
    assert_eq!(worker.checkpoint(&grant, object).await, Ok(v1::Verdict::Continue));
    assert_eq!(served.get_job(&job).await.subjects[0].training.unwrap().checkpoint_step, 5);
    worker.finish(&grant).await.unwrap();
}

#[tokio::test]
async fn vectors_that_are_not_there_cost_a_preview_and_nothing_else() {
    let served = Served::new().await;
    let mut worker = Worker::registered(&served).await;
    let job = served.submitted().await;
    let grant = worker.lease_one().await;
    let report = |step, object: ObjectRef| v1::TrainReport {
        step,
        losses: vec![0.5; 5],
        preview: Some(v1::Snapshot { embedding: Some(object.into()), step }),
        ..Default::default()
    };
    let missing = ObjectRef::of(format!("{}preview-000005.safetensors", grant.output_prefix).parse().unwrap(), b"none");
    let photo = served.get_subject_photo().await;
    for (step, object) in [(5, missing), (10, photo)] {
        assert_eq!(worker.report(&grant, report(step, object)).await, Ok(v1::Verdict::Continue));
        let training = served.get_job(&job).await.subjects[0].training.unwrap();
        assert_eq!((training.step, training.preview_step), (step, 0));
    }
    let there = worker.write(&grant, "preview-000015.safetensors").await;
    assert_eq!(worker.report(&grant, report(15, there)).await, Ok(v1::Verdict::Continue));
    let preview = worker.lease_one().await;
    assert!(matches!(preview.work, Some(v1::grant::Work::Preview(_))), "{preview:?}");
    worker.finish(&preview).await.unwrap();
    let shown = served.get_job(&job).await.subjects.remove(0).previews;
    assert_eq!(shown.iter().map(|preview| preview.step).collect::<Vec<_>>(), [15]);
}

impl Served {
    async fn get_subject_photo(&self) -> ObjectRef {
        let request = v1::GetSubjectRequest { subject: "ada".into() };
        let subject = self.people().get_subject(request).await.unwrap().into_inner();
        subject.photos[0].object.clone().unwrap().try_into().unwrap()
    }
}

#[tokio::test]
async fn a_lease_that_lapses_is_granted_again() {
    let served = Served::with_lease(Duration::from_millis(100)).await;
    let mut worker = Worker::registered(&served).await;
    served.submitted().await;
    let first = worker.lease_one().await;
    let second = worker.lease_one().await; // waits until the sweep has taken it back
    assert_eq!((second.task_id, second.fence), (first.task_id.clone(), first.fence + 1));
    assert_eq!(worker.finish(&first).await.unwrap_err().code, ErrorCode::StaleFence);
}

#[tokio::test]
async fn a_job_goes_on_after_a_restart() {
    let served = Served::new().await;
    let mut worker = Worker::registered(&served).await;
    let job = served.submitted().await;
    let train = worker.lease_one().await;
    worker.finish(&train).await.unwrap();
    let incarnation = worker.incarnation.clone();
    let served = served.restarted().await;
    let mut worker = Worker { served: &served, fleet: served.fleet(), incarnation };
    for _ in 0..2 {
        let grant = worker.lease_one().await;
        worker.finish(&grant).await.unwrap();
    }
    assert_eq!(served.get_job(&job).await.subjects[0].state(), SubjectState::Succeeded);
}

#[tokio::test]
async fn what_a_stale_worker_wrote_about_a_forgotten_subject_goes_at_the_latest_with_a_restart() {
    let served = Served::new().await;
    let mut worker = Worker::registered(&served).await;
    served.submitted().await;
    let grant = worker.lease_one().await;
    served.people().forget_subject(v1::ForgetSubjectRequest { subject: "ada".into() }).await.unwrap();
    worker.write(&grant, "embedding.safetensors").await;
    served.put("ada", &[("new.png", png(16, 16))]).await.unwrap();
    let served = served.restarted().await;
    served.people().list_jobs(v1::ListJobsRequest::default()).await.unwrap();
    let keys = served.keys().await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert_eq!(keys[0], served.get_subject_photo().await.key.to_string(), "the subject put again is kept");
}

#[tokio::test]
async fn a_shutdown_ends_watches_and_waiting_workers() {
    let served = Served::new().await;
    let mut worker = Worker::registered(&served).await;
    let job = served.submitted().await;
    worker.lease_one().await;
    let mut watched = served.people().watch_job(v1::WatchJobRequest { job_id: job.id }).await.unwrap().into_inner();
    watched.message().await.unwrap().unwrap();
    let shutdown = served.shutdown.clone();
    let (grants, end, ()) = tokio::join!(worker.lease(30_000), watched.message(), async { shutdown.cancel() });
    assert!(grants.is_empty());
    assert_eq!(Refusal::read(&end.unwrap_err()).code, ErrorCode::Unavailable);
    served.running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_job_that_is_not_there_is_unknown_whatever_its_id_looks_like() {
    let served = Served::new().await;
    let get = async |id: &str| {
        let status = served.people().get_job(v1::GetJobRequest { job_id: id.into() }).await.unwrap_err();
        Refusal::read(&status).code
    };
    assert_eq!(get("job-7").await, ErrorCode::UnknownJob);
    assert_eq!(get("01890a5d-ac96-774b-bcce-b302099a8057").await, ErrorCode::UnknownJob);
}

#[tokio::test]
async fn a_corrupt_object_is_not_downloaded_as_if_it_were_right() {
    let served = Served::new().await;
    served.put("ada", &[("a.png", png(64, 48))]).await.unwrap();
    let photo = served.get_subject_photo().await;
    served.bucket.put(&Path::from(photo.key.as_str()), "something else".into()).await.unwrap();
    assert_eq!(served.download(photo.key.as_str()).await.unwrap_err().code, ErrorCode::ObjectCorrupt);
}

#[tokio::test]
async fn a_bucket_that_cannot_be_written_to_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("bucket");
    std::fs::create_dir(&place).unwrap();
    let bucket = object_store::local::LocalFileSystem::new_with_prefix(&place).unwrap();
    // A file where the folder was: no user, not even root, can write below it.
    std::fs::remove_dir(&place).unwrap();
    std::fs::write(&place, "in the way").unwrap();
    let tokens = Tokens::embedded("default".parse().unwrap(), &secret("right"));
    let options = Options::new(
        StoreAddress::Sqlite(folder.path().join("likeness.db")),
        Arc::new(bucket),
        tokens,
        secret("pepper"),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = run(listener, options, CancellationToken::new()).await.unwrap_err();
    let CoordinatorError::Refused(refusal) = &error else { panic!("{error}") };
    assert_eq!(refusal.code, ErrorCode::StorageUnavailable);
    assert!(refusal.message.contains("writable"), "{refusal}");
}
