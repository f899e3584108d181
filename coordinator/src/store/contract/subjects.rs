//! Photos that come, are put again, and are erased.

use super::*;

pub(crate) async fn photos_put_again_do_not_touch_jobs_that_go_on<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    let upload = world.store.begin_upload(&world.tenant, &name("ada")).await.unwrap();
    let other = Photo { file_name: "other.png".into(), ..world.photo("bob") };
    world.store.commit_upload(&upload, &consent(), &[other], &actor()).await.unwrap();
    let grant = world.claim_one().await;
    let Some(v1::grant::Work::Train(work)) = &grant.work else { panic!("{grant:?}") };
    assert_eq!(work.photos[0].file_name, "a.png");
}

pub(crate) async fn a_forgotten_subject_leaves_nothing_and_touches_nobody_else<E: Engine>() {
    let world = World::<E>::new().await;
    let ada = world.put("ada").await;
    world.put("bob").await;
    let job = world.submit(&["ada", "bob"]).await;
    let (train, bob) = (world.claim_one().await, world.claim_one().await);
    world.renew(&train, Some(Progress::Train(report(5, &[0.5; 5])))).await;
    let forgotten = world.store.forget(&world.tenant, &name("ada"), &asked()).await.unwrap();
    assert_eq!(forgotten.jobs, std::slice::from_ref(&job.id));

    assert_eq!(code(world.store.subject(&world.tenant, &name("ada")).await), ErrorCode::UnknownSubject);
    let photo = ada.photos[0].object.as_ref().unwrap().key.parse().unwrap();
    assert_eq!(code(world.store.object(&world.tenant, &photo).await), ErrorCode::UnknownObject);
    assert_eq!(world.renew(&train, checkpointed(&train, 10)).await, Verdict::Lost);
    assert_eq!(code(world.complete(&train).await), ErrorCode::StaleFence);
    let curve = world.store.losses(&world.tenant, job.id.parse().unwrap(), &name("ada")).await.unwrap();
    assert!(curve.losses.is_empty());
    let stub = &world.job(&job).await.subjects[0];
    assert_eq!(
        (stub.state(), stub.error.as_ref().unwrap().code()),
        (SubjectState::Failed, ErrorCode::SubjectForgotten)
    );
    assert_eq!((stub.init.as_str(), stub.warnings.len()), ("", 0));

    assert_eq!(world.renew(&bob, None).await, Verdict::Continue);
    world.complete(&bob).await.unwrap();
    world.work().await;
    assert_eq!(world.job(&job).await.state(), v1::JobState::PartlyFailed);
    world.store.swept(&forgotten.erasure).await.unwrap();
    assert_eq!(code(world.store.forget(&world.tenant, &name("ada"), &asked()).await), ErrorCode::UnknownSubject);
}

pub(crate) async fn a_finished_job_stays_as_it_ended_when_its_subject_is_forgotten<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    world.work().await;
    world.store.forget(&world.tenant, &name("ada"), &asked()).await.unwrap();
    let job = world.job(&job).await;
    assert_eq!((job.state(), job.subjects[0].avatars.len()), (v1::JobState::Succeeded, 0));
    assert_eq!(job.subjects[0].error.as_ref().unwrap().code(), ErrorCode::SubjectForgotten);
}

pub(crate) async fn a_subject_is_put_again_only_after_its_erasure_and_then_kept<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    let stale = world.claim_one().await;
    let erasure = world.store.forget(&world.tenant, &name("ada"), &asked()).await.unwrap().erasure;
    assert_eq!(code(world.store.begin_upload(&world.tenant, &name("ada")).await), ErrorCode::Unavailable);
    world.store.swept(&erasure).await.unwrap();

    let photo = world.put("ada").await.photos[0].object.clone().unwrap().key.parse().unwrap();
    world.try_submit("second", &["ada"], true).await.unwrap();
    let current = world.claim_one().await;
    let keep = output(&current, "checkpoint-000010.safetensors").key;
    let late = output(&stale, "embedding.safetensors").key;
    world.clock.advance(2 * LEASE);
    let owed = world.store.owed(Sweep::Due).await.unwrap();
    let [erasure] = owed.as_slice() else { panic!("one late sweep is due: {owed:?}") };
    let unknown = world.store.unknown(erasure, vec![photo, keep, late.clone()]).await.unwrap();
    assert_eq!(unknown, [late], "only what the stale worker wrote");
    world.store.swept(erasure).await.unwrap();
    assert!(world.store.owed(Sweep::Due).await.unwrap().is_empty());
    assert_eq!(world.store.owed(Sweep::All).await.unwrap().len(), 1, "the last one comes later");
}

pub(crate) async fn an_upload_overtaken_by_forgetting_is_refused<E: Engine>() {
    let world = World::<E>::new().await;
    let upload = world.store.begin_upload(&world.tenant, &name("ada")).await.unwrap();
    world.store.forget(&world.tenant, &name("ada"), &asked()).await.unwrap();
    let photo = world.photo("ada");
    let refused = world.store.commit_upload(&upload, &consent(), std::slice::from_ref(&photo), &actor()).await;
    assert_eq!(code(refused), ErrorCode::SubjectForgotten);
    world.store.abandon_upload(&upload).await.unwrap();
    let erasure = &world.store.owed(Sweep::All).await.unwrap()[0];
    assert_eq!(world.store.unknown(erasure, vec![photo.object.key.clone()]).await.unwrap(), [photo.object.key]);
}

pub(crate) async fn photos_are_not_swept_under_an_upload_that_goes_on<E: Engine>() {
    let world = World::<E>::new().await;
    let failed = world.store.begin_upload(&world.tenant, &name("ada")).await.unwrap();
    world.store.abandon_upload(&failed).await.unwrap();
    let going = world.store.begin_upload(&world.tenant, &name("ada")).await.unwrap();
    let photo = world.photo("ada");
    let erasure = &world.store.owed(Sweep::Due).await.unwrap()[0];
    assert!(world.store.unknown(erasure, vec![photo.object.key.clone()]).await.unwrap().is_empty());
    world.store.swept(erasure).await.unwrap();

    world.store.commit_upload(&going, &consent(), std::slice::from_ref(&photo), &actor()).await.unwrap();
    let erasure = &world.store.owed(Sweep::Due).await.unwrap()[0];
    assert!(erasure.locked, "nothing goes on now");
    assert!(world.store.unknown(erasure, vec![photo.object.key]).await.unwrap().is_empty(), "it is committed");
    world.store.swept(erasure).await.unwrap();
    assert!(world.store.owed(Sweep::All).await.unwrap().is_empty());
}

pub(crate) async fn an_upload_that_never_ends_is_taken_back<E: Engine>() {
    let world = World::<E>::new().await;
    let upload = world.store.begin_upload(&world.tenant, &name("ada")).await.unwrap();
    world.clock.advance(UPLOAD_LIMIT);
    world.store.expire().await.unwrap();
    let refused = world.store.commit_upload(&upload, &consent(), &[world.photo("ada")], &actor()).await;
    assert_eq!(code(refused), ErrorCode::SubjectForgotten);
    assert_eq!(world.store.owed(Sweep::Due).await.unwrap().len(), 1);
}

pub(crate) async fn a_sweep_is_one_coordinators_at_a_time<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.store.forget(&world.tenant, &name("ada"), &asked()).await.unwrap();
    assert!(world.store.owed(Sweep::Due).await.unwrap().is_empty(), "whoever forgot is at it");
    world.clock.advance(SWEEP_LIMIT);
    let owed = world.store.owed(Sweep::Due).await.unwrap();
    assert!(!owed.is_empty(), "it hung, another begins again");
    assert!(world.store.owed(Sweep::Due).await.unwrap().is_empty());
    for erasure in &owed {
        world.store.swept(erasure).await.unwrap();
    }
    world.put("ada").await;
}
