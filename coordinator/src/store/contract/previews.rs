//! Pictures of how far a training is.

use super::*;

/// A training that goes on, of one subject.
async fn training<E: Engine>() -> (World<E>, v1::Job, v1::Grant) {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    let train = world.claim_one().await;
    (world, job, train)
}

impl<E: Engine> World<E> {
    /// The preview that is ready.
    async fn claim_preview(&self) -> Option<v1::Grant> {
        let mut grants = self.claim_as(self.worker, &[TaskKind::Preview]).await.unwrap();
        assert!(grants.len() <= 1, "the newest is drawn, and no other");
        grants.pop()
    }

    async fn steps_shown(&self, job: &v1::Job) -> Vec<u32> {
        self.job(job).await.subjects[0].previews.iter().map(|preview| preview.step).collect()
    }
}

fn step_of(grant: &v1::Grant) -> u32 {
    let Some(v1::grant::Work::Preview(work)) = &grant.work else { panic!("{grant:?}") };
    work.step
}

pub(crate) async fn vectors_are_drawn_once_for_each_step_as_the_first_avatar<E: Engine>() {
    let (world, job, train) = training::<E>().await;
    assert_eq!(world.renew(&train, previewed(&train, 50)).await, Verdict::Continue);
    let others = [TaskKind::Train, TaskKind::Render, TaskKind::Assemble];
    assert!(world.claim_as(world.worker, &others).await.unwrap().is_empty(), "who does not ask for it gets none");
    let preview = world.claim_preview().await.expect("it is ready");
    let Some(v1::grant::Work::Preview(work)) = &preview.work else { panic!("{preview:?}") };
    let render = work.render.as_ref().unwrap();
    let first = v1::Shot { index: 0, prompt: "{subject} at sea".into(), seed: 1 };
    assert_eq!((work.step, render.shots.as_slice()), (50, [first].as_slice()));
    assert_eq!(render.embedding, Some(output(&train, &snapshot_name(50)).into()));
    assert_eq!((&preview.job_id, &preview.subject, &preview.base_model), (&job.id, &train.subject, &train.base_model));
    assert!(preview.output_prefix.starts_with("v1/acme/ada/preview/"));

    world.complete(&preview).await.unwrap();
    world.complete(&preview).await.unwrap(); // its answer was lost
    let subject = world.job(&job).await.subjects.remove(0);
    let picture = output(&preview, &avatar_name(0));
    assert_eq!(subject.previews, [v1::Preview { step: 50, object: Some(picture.clone().into()) }]);
    assert_eq!((subject.state(), subject.rendering.unwrap().avatars_done), (SubjectState::Training, 0));
    assert_eq!(world.store.object(&world.tenant, &picture.key).await.unwrap(), picture);
    let vectors = world.store.object(&world.tenant, &output(&train, &snapshot_name(50)).key).await;
    assert_eq!(code(vectors), ErrorCode::UnknownObject, "they are nobody's to see");

    // A successor passes the same step again.
    world.lapse().await;
    let train = world.claim_one().await;
    world.renew(&train, previewed(&train, 50)).await;
    assert!(world.claim_preview().await.is_none());
    world.renew(&train, previewed(&train, 100)).await;
    assert_eq!(step_of(&world.claim_preview().await.unwrap()), 100);
}

pub(crate) async fn previews_are_drawn_where_nothing_else_is_ready<E: Engine>() {
    let world = World::<E>::new().await;
    for subject in ["ada", "bob"] {
        world.put(subject).await;
    }
    world.submit(&["ada", "bob"]).await;
    let (ada, bob) = (world.claim_one().await, world.claim_one().await);
    world.renew(&ada, previewed(&ada, 50)).await;
    world.clock.advance(Duration::from_secs(1));
    world.complete(&bob).await.unwrap();
    let kinds = [TaskKind::Preview, TaskKind::Render, TaskKind::Assemble];
    let claimed = async |capacity| {
        let grants = world.store.claim(&ask(world.worker, &kinds, capacity)).await.unwrap();
        grants.into_iter().map(|grant| grant.output_prefix.split('/').nth(3).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(claimed(1).await, ["render"]);
    assert_eq!(claimed(2).await, ["render", "preview"], "with what room is left");

    let limits = Limits { running_tasks: 1, ..Limits::default() };
    world.store.create_tenant(&world.tenant, &Terms { limits, ..Terms::default() }, &actor()).await.unwrap();
    world.renew(&ada, previewed(&ada, 100)).await;
    assert!(claimed(2).await.is_empty(), "who has as many tasks running as it may has no preview drawn");
}

pub(crate) async fn the_newest_preview_takes_the_place_of_those_that_wait<E: Engine>() {
    let (world, job, train) = training::<E>().await;
    world.renew(&train, previewed(&train, 50)).await;
    let first = world.claim_preview().await.unwrap();
    for step in [100, 150, 200] {
        world.renew(&train, previewed(&train, step)).await;
    }
    let last = world.claim_preview().await.unwrap();
    assert_eq!((step_of(&first), step_of(&last)), (50, 200));
    for grant in [&last, &first] {
        world.complete(grant).await.unwrap();
    }
    assert_eq!(world.steps_shown(&job).await, [50, 200], "in the order of their steps, whichever came first");

    // One that is given back when there is a newer one is not drawn again.
    world.renew(&train, previewed(&train, 250)).await;
    let given_back = world.claim_preview().await.unwrap();
    world.renew(&train, previewed(&train, 300)).await;
    let release = Release { incarnation: world.worker, lease: lease(&given_back) };
    world.store.release(&release).await.unwrap();
    assert_eq!(step_of(&world.claim_preview().await.unwrap()), 300);

    world.renew(&train, previewed(&train, 350)).await;
    world.complete(&train).await.unwrap();
    assert!(world.claim_preview().await.is_none(), "the avatars themselves are next");
}

pub(crate) async fn a_preview_fails_nothing_and_nothing_waits_for_it<E: Engine>() {
    let (world, job, train) = training::<E>().await;
    world.renew(&train, previewed(&train, 50)).await;
    for _ in 0..2 {
        let preview = world.claim_preview().await.unwrap();
        world.fail(&preview, true).await.unwrap();
    }
    assert!(world.claim_preview().await.is_none(), "it was tried often enough");
    world.renew(&train, previewed(&train, 100)).await;
    world.fail(&world.claim_preview().await.unwrap(), false).await.unwrap();
    let subject = world.job(&job).await.subjects.remove(0);
    assert_eq!((subject.state(), subject.error), (SubjectState::Training, None));

    world.renew(&train, previewed(&train, 150)).await;
    let slow = world.claim_preview().await.unwrap();
    world.complete(&train).await.unwrap();
    world.work().await;
    let ended = world.job(&job).await;
    assert_eq!((ended.state(), ended.subjects[0].avatars.len()), (v1::JobState::Succeeded, 6));
    assert!(ended.ended_at.is_some() && ended.subjects[0].error.is_none());
    assert_eq!(world.renew(&slow, None).await, Verdict::Cancelled);
    assert_eq!(code(world.complete(&slow).await), ErrorCode::StaleFence);
    assert_eq!(world.steps_shown(&job).await, [0_u32; 0]);
    assert_eq!(world.job(&job).await.revision, ended.revision);
}

pub(crate) async fn a_training_has_no_more_previews_than_its_spec_says<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    for (key, previews) in [("none", 0), ("two", 2)] {
        let train = v1::TrainSpec { previews: Some(previews), ..Default::default() };
        let wire = v1::SubmitJobRequest { train: Some(train), ..request(key, &["ada"], true) };
        world.store.submit(&world.tenant, &wire.try_into().unwrap(), [1; 32], &actor()).await.unwrap();
        let train = world.claim_one().await;
        let mut drawn = 0;
        for step in 1..=5 {
            world.renew(&train, previewed(&train, step)).await;
            drawn += u32::from(world.claim_preview().await.is_some());
        }
        assert_eq!(drawn, previews);
    }
}

pub(crate) async fn a_preview_of_a_cancelled_or_forgotten_subject_is_not_drawn<E: Engine>() {
    let (world, job, train) = training::<E>().await;
    world.renew(&train, previewed(&train, 50)).await;
    let first = world.claim_preview().await.unwrap();
    world.complete(&first).await.unwrap();
    world.renew(&train, previewed(&train, 100)).await;
    let second = world.claim_preview().await.unwrap();
    world.renew(&train, previewed(&train, 150)).await;
    world.store.cancel(&world.tenant, job.id.parse().unwrap(), &actor()).await.unwrap();
    assert!(world.claim_preview().await.is_none());
    assert_eq!(world.renew(&second, None).await, Verdict::Cancelled);
    assert_eq!(world.steps_shown(&job).await, [50], "what is finished stays");

    world.store.forget(&world.tenant, &name("ada"), &asked()).await.unwrap();
    assert_eq!(world.steps_shown(&job).await, [0_u32; 0]);
    let picture = output(&first, &avatar_name(0)).key;
    assert_eq!(code(world.store.object(&world.tenant, &picture).await), ErrorCode::UnknownObject);
    assert_eq!(world.renew(&second, None).await, Verdict::Lost);
}
