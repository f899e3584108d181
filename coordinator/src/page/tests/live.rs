//! Pages that follow what happens.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use likeness_proto::v1::JobState;

use super::*;

/// The next line that says something.
async fn next(stream: &mut Incoming) -> Option<String> {
    loop {
        let frame = stream.frame().await?.unwrap();
        let text = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
        if let Some(event) = text.strip_prefix("event: ") {
            return Some(event.split('\n').next().unwrap().to_owned());
        }
    }
}

#[tokio::test]
async fn a_jobs_page_is_told_of_every_change_and_of_the_end() {
    let site = Site::new().await;
    let mut worker = Worker::registered(&site.served).await;
    let job = site.served.submitted().await;
    let owner = site.owner().await;
    let path = format!("/jobs/{}", job.id);
    let page = owner.get(&path).await;
    let events = format!("{path}/events?since={}", job.revision);
    assert!(page.body.contains(&format!("data-events=\"{events}\"")), "{}", page.body);
    let response = owner.send("GET", &events, &[], "").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.into_body();
    let grant = worker.lease_one().await;
    assert_eq!(next(&mut stream).await.as_deref(), Some("change"));
    assert!(owner.get(&path).await.body.contains("Learning"));
    worker.finish(&grant).await.unwrap();
    for _ in 0..2 {
        let grant = worker.lease_one().await;
        worker.finish(&grant).await.unwrap();
    }
    let mut last = String::new();
    while let Some(event) = next(&mut stream).await {
        last = event;
    }
    assert_eq!(last, "over");
    assert_eq!(site.served.get_job(&job).await.state(), JobState::Succeeded);
    let page = owner.get(&path).await;
    assert!(!page.body.contains("data-events"), "what has ended does not change");
    assert!(page.body.contains("Contact sheet of ada") && page.body.contains("ada at sea, seed 1"), "{}", page.body);
}

#[tokio::test]
async fn the_list_is_told_of_new_jobs_and_of_changes() {
    let site = Site::new().await;
    let mut worker = Worker::registered(&site.served).await;
    let owner = site.owner().await;
    site.served.submitted().await;
    let mut stream = owner.send("GET", "/jobs/events", &[], "").await.into_body();
    assert_eq!(next(&mut stream).await.as_deref(), Some("change"), "as it stands");
    worker.lease_one().await;
    assert_eq!(next(&mut stream).await.as_deref(), Some("change"));
    let other = site.signed_in(&site.key("other", Role::Member).await.token).await;
    let mut silent = other.send("GET", "/jobs/events", &[], "").await.into_body();
    tokio::select! {
        event = next(&mut silent) => panic!("{event:?} of another tenant's"),
        event = async {
            worker.lease(0).await;
            next(&mut stream).await
        } => drop(event),
        () = tokio::time::sleep(std::time::Duration::from_millis(200)) => {}
    }
}

#[tokio::test]
async fn the_fleet_shows_who_works_on_what_and_whose_only_to_them() {
    let site = Site::new().await;
    let mut worker = Worker::registered(&site.served).await;
    let job = site.served.submitted().await;
    let grant = worker.lease_one().await;
    let checkpoint = worker.write(&grant, "checkpoint-000005.safetensors").await;
    worker.checkpoint(&grant, checkpoint).await.unwrap();
    let owner = site.owner().await.get("/fleet").await.body;
    assert!(owner.contains("node-1") && owner.contains("Learning: Step 5 of at most 400"), "{owner}");
    assert!(owner.contains(&format!("<a href=\"/jobs/{}\"><bdi>ada</bdi></a>", job.id)), "{owner}");
    let admin = site.signed_in(&site.key("default", Role::Admin).await.token).await.get("/fleet").await.body;
    assert!(admin.contains("node-1") && admin.contains("default, job ") && !admin.contains("ada"), "{admin}");
    let viewer = site.signed_in(&site.key("default", Role::Viewer).await.token).await.get("/fleet").await.body;
    assert!(viewer.contains("ada") && viewer.contains("Step 5") && !viewer.contains("node-1"), "{viewer}");
}

#[tokio::test]
async fn a_shutdown_ends_the_streams() {
    let site = Site::new().await;
    let owner = site.owner().await;
    let mut stream = owner.send("GET", "/fleet/events", &[], "").await.into_body();
    site.served.shutdown.cancel();
    while let Some(frame) = stream.frame().await {
        if frame.is_err() {
            break;
        }
    }
    site.served.running.await.unwrap().unwrap();
}
