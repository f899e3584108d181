//! What a job does from its submission to its end.

use super::*;

pub(crate) async fn a_job_goes_from_photos_to_a_contact_sheet<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    assert_eq!((job.state(), job.revision), (v1::JobState::Queued, 1));

    let grants = world.claim().await;
    let [train] = grants.as_slice() else { panic!("only the training is ready: {grants:?}") };
    let Some(v1::grant::Work::Train(work)) = &train.work else { panic!("{train:?}") };
    assert_eq!((work.init.as_str(), work.token.as_str(), work.photos.len()), ("person", "<ada>", 1));
    assert!(likeness_proto::Grant::try_from(train.clone()).is_ok(), "a worker can read it");
    assert_eq!(world.job(&job).await.state(), v1::JobState::Running);
    world.complete(train).await.unwrap();

    let renders = world.claim().await;
    assert_eq!(renders.len(), 2);
    for render in &renders {
        let Some(v1::grant::Work::Render(work)) = &render.work else { panic!("{render:?}") };
        assert_eq!(work.embedding, Some(output(train, "embedding.safetensors").into()));
        world.complete(render).await.unwrap();
    }
    let sheet = world.claim_one().await;
    let Some(v1::grant::Work::Assemble(work)) = &sheet.work else { panic!("{sheet:?}") };
    assert_eq!(work.avatars.iter().map(|avatar| avatar.index).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(world.job(&job).await.subjects[0].state(), SubjectState::Assembling);
    world.complete(&sheet).await.unwrap();

    let job = world.job(&job).await;
    let ada = &job.subjects[0];
    assert_eq!((job.state(), ada.state()), (v1::JobState::Succeeded, SubjectState::Succeeded));
    assert!(job.ended_at.is_some());
    assert_eq!(ada.rendering.unwrap().seconds, 3.0);
    assert_eq!((ada.rendering.unwrap().avatars_done, ada.avatars.len()), (6, 6));
    assert_eq!(ada.trained.unwrap().best_step, 50);
    assert_eq!(ada.warnings[0].code(), v1::WarningCode::SmallPhoto);
    let embedding = world.store.subject(&world.tenant, &name("ada")).await.unwrap().embedding.unwrap();
    assert_eq!((embedding.job_id, embedding.vectors), (job.id, 1));
    for object in [ada.contact_sheet.clone(), ada.avatars[5].object.clone(), embedding.object] {
        let object = ObjectRef::try_from(object.unwrap()).unwrap();
        assert_eq!(world.store.object(&world.tenant, &object.key).await.unwrap(), object);
    }
}

pub(crate) async fn every_task_of_a_job_knows_whose_child_it_is<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let mut submission: likeness_proto::Submission = request("key", &["ada"], true).try_into().unwrap();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    submission.traceparent = Some(parent.to_owned());
    world.store.submit(&world.tenant, &submission, [1; 32], &actor()).await.unwrap();
    let first = world.claim_one().await;
    world.fail(&first, true).await.unwrap();
    let mut attempts = vec![first];
    while let Some(grant) = world.claim().await.into_iter().next() {
        world.complete(&grant).await.unwrap();
        attempts.push(grant);
        for surplus in world.store.census().await.unwrap().leases {
            assert!(surplus.1 <= 1);
        }
    }
    assert!(attempts.len() >= 3, "{attempts:?}");
    assert!(attempts.iter().all(|grant| grant.traceparent == parent), "{attempts:?}");
}

pub(crate) async fn a_repeated_request_gets_the_job_accepted_then<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let first = world.try_submit("key", &["ada"], true).await.unwrap();
    assert_eq!(world.try_submit("key", &["ada"], true).await.unwrap().id, first.id);
    assert_eq!(code(world.try_submit("key", &["ada"], false).await), ErrorCode::IdempotencyConflict);
    assert_eq!(world.store.jobs(&world.tenant, 10).await.unwrap().len(), 1);
}

pub(crate) async fn a_job_whose_model_nobody_holds_is_refused<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let mut wire = request("key", &["ada"], true);
    wire.base_model = model('c').digest.to_string();
    let refused = world.store.submit(&world.tenant, &wire.try_into().unwrap(), [0; 32], &actor()).await;
    assert_eq!(code(refused), ErrorCode::ModelUnavailable);
    let world = world.reopened().await;
    world.submit(&["ada"]).await; // what the fleet holds is not forgotten
}

pub(crate) async fn a_job_names_subjects_that_are_there<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    assert_eq!(code(world.try_submit("key", &["ada", "bob"], true).await), ErrorCode::UnknownSubject);
    assert!(world.store.jobs(&world.tenant, 10).await.unwrap().is_empty(), "nothing of it is left");
    assert!(world.claim().await.is_empty());
}

pub(crate) async fn new_avatars_need_a_finished_embedding_of_the_same_model<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    assert_eq!(code(world.try_submit("early", &["ada"], false).await), ErrorCode::NoEmbedding);
    world.submit(&["ada"]).await;
    world.work().await;

    let again = world.try_submit("again", &["ada"], false).await.unwrap();
    assert_eq!(world.claim_as(world.worker, &[TaskKind::Train]).await.unwrap().len(), 0);
    world.work().await;
    let again = world.job(&again).await;
    assert_eq!((again.state(), again.train), (v1::JobState::Succeeded, None));

    world.register("node-1", world.worker, vec![model('b')]).await;
    assert_eq!(code(world.try_submit("other", &["ada"], false).await), ErrorCode::ModelMismatch);
}

pub(crate) async fn avatars_under_way_are_counted<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    world.complete(&world.claim_one().await).await.unwrap();
    let render = world.claim_one().await;
    let done = async || world.job(&job).await.subjects[0].rendering.unwrap().avatars_done;
    world.renew(&render, Some(Progress::Render { avatars_done: 3 })).await;
    assert_eq!(done().await, 3);
    world.lapse().await;
    assert_eq!(done().await, 0, "they are gone with the lease");
}

pub(crate) async fn avatars_must_be_those_asked_for<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    world.complete(&world.claim_one().await).await.unwrap();
    let render = world.claim_one().await;
    let mut completion = world.completion(&render);
    let TaskResult::Render { avatars, .. } = &mut completion.result else { panic!("{completion:?}") };
    avatars.pop();
    assert_eq!(code(world.store.complete(&completion).await), ErrorCode::InvalidArgument);
    completion.result = TaskResult::Assemble { contact_sheet: output(&render, "contact-sheet.png") };
    assert_eq!(code(world.store.complete(&completion).await), ErrorCode::InvalidArgument);
    assert_eq!(world.job(&job).await.subjects[0].avatars, [], "all or nothing");
    world.complete(&render).await.unwrap();
}

pub(crate) async fn a_cancelled_job_keeps_what_is_finished_and_stays_cancelled<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    world.complete(&world.claim_one().await).await.unwrap();
    let running = world.claim_one().await;
    let id = job.id.parse().unwrap();
    let cancelled = world.store.cancel(&world.tenant, id, &actor()).await.unwrap();
    assert_eq!(cancelled.state(), v1::JobState::Cancelled);
    assert!(cancelled.subjects[0].embedding.is_some());

    assert_eq!(world.renew(&running, None).await, Verdict::Cancelled);
    assert_eq!(code(world.complete(&running).await), ErrorCode::StaleFence);
    assert!(world.claim().await.is_empty());
    assert_eq!(code(world.store.cancel(&world.tenant, id, &actor()).await), ErrorCode::JobFinished);
    assert_eq!(world.job(&job).await, cancelled);
}

pub(crate) async fn a_finished_job_cannot_be_cancelled<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    world.work().await;
    assert_eq!(
        code(world.store.cancel(&world.tenant, job.id.parse().unwrap(), &actor()).await),
        ErrorCode::JobFinished
    );
}

pub(crate) async fn a_tenant_sees_nothing_of_another<E: Engine>() {
    let world = World::<E>::new().await;
    let ada = world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    let (other, id) = ("other".parse().unwrap(), job.id.parse().unwrap());
    let key = ada.photos[0].object.as_ref().unwrap().key.parse().unwrap();
    assert_eq!(code(world.store.subject(&other, &name("ada")).await), ErrorCode::UnknownSubject);
    assert_eq!(code(world.store.job(&other, id).await), ErrorCode::UnknownJob);
    assert_eq!(code(world.store.cancel(&other, id, &actor()).await), ErrorCode::UnknownJob);
    assert_eq!(code(world.store.losses(&other, id, &name("ada")).await), ErrorCode::UnknownJob);
    assert_eq!(code(world.store.object(&other, &key).await), ErrorCode::UnknownObject);
    assert_eq!(code(world.store.forget(&other, &name("ada"), &asked()).await), ErrorCode::UnknownSubject);
    assert!(world.store.subjects(&other).await.unwrap().is_empty());
    assert!(world.store.jobs(&other, 10).await.unwrap().is_empty());
    let same_key = request("key", &["ada"], true).try_into().unwrap();
    assert_eq!(code(world.store.submit(&other, &same_key, [9; 32], &actor()).await), ErrorCode::UnknownSubject);
    assert!(world.store.object(&world.tenant, &key).await.is_ok());
}

pub(crate) async fn everything_survives_a_restart<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    let old = world.claim_one().await;
    let before = world.job(&job).await;

    let world = world.reopened().await;
    assert_eq!(world.job(&job).await, before);
    assert!(world.claim().await.is_empty(), "the lease is remembered");
    world.lapse().await;
    let new = world.claim_one().await;
    assert_eq!(new.fence, old.fence + 1, "and so is its fence");
    assert_eq!(code(world.complete(&old).await), ErrorCode::StaleFence);
    world.complete(&new).await.unwrap();
    world.work().await;
    assert_eq!(world.job(&job).await.state(), v1::JobState::Succeeded);
}

pub(crate) async fn changes_are_told_and_revisions_grow<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let mut ready = world.store.signals().ready();
    let job = world.submit(&["ada"]).await;
    assert!(ready.has_changed());
    ready.forget();
    let mut changes = world.store.signals().job(&world.tenant, job.id.parse().unwrap());
    let train = world.claim_one().await;
    changes.changed().await;
    assert!(!ready.has_changed(), "a grant makes nothing ready");
    let revision = world.job(&job).await.revision;
    assert!(revision > job.revision);
    world.renew(&train, None).await;
    assert_eq!(world.job(&job).await.revision, revision, "a plain renewal is no change of the job");
    world.complete(&train).await.unwrap();
    assert!(ready.has_changed());
    assert!(world.job(&job).await.revision > revision);
}

pub(crate) async fn jobs_are_listed_newest_first<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let mut ids = Vec::new();
    for key in ["a", "b", "c"] {
        ids.insert(0, world.try_submit(key, &["ada"], true).await.unwrap().id);
        world.clock.advance(Duration::from_millis(1));
    }
    let listed = world.store.jobs(&world.tenant, 2).await.unwrap();
    assert_eq!(listed.iter().map(|job| &job.id).collect::<Vec<_>>(), ids[..2].iter().collect::<Vec<_>>());
}
