//! Who holds a task, and what a worker that fails or goes leaves behind.

use super::*;

pub(crate) async fn a_lapsed_lease_goes_to_the_next_worker_under_a_higher_fence<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    let old = world.claim_one().await;
    world.clock.advance(LEASE - Duration::from_millis(1));
    world.store.expire().await.unwrap();
    assert!(world.claim().await.is_empty(), "the lease lives still");
    assert_eq!(world.renew(&old, None).await, Verdict::Continue);
    world.lapse().await;

    let new = world.claim_one().await;
    assert_eq!((new.task_id.as_str(), new.fence, new.attempt), (old.task_id.as_str(), old.fence + 1, 2));
    assert_ne!(new.output_prefix, old.output_prefix);
    assert_eq!(world.renew(&old, None).await, Verdict::Lost);
    assert_eq!(code(world.complete(&old).await), ErrorCode::StaleFence);
    assert_eq!(code(world.fail(&old, false).await), ErrorCode::StaleFence);
    let release = Release { incarnation: world.worker, lease: lease(&old) };
    assert_eq!(code(world.store.release(&release).await), ErrorCode::StaleFence);
    world.complete(&new).await.unwrap();
}

pub(crate) async fn a_result_counts_once_and_its_repetition_is_answered_the_same<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    let train = world.claim_one().await;
    world.complete(&train).await.unwrap();
    let revision = world.job(&job).await.revision;
    world.complete(&train).await.unwrap();
    assert_eq!(world.job(&job).await.revision, revision, "nothing changed");
}

pub(crate) async fn a_subject_that_loses_its_workers_fails_alone<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.put("bob").await;
    let job = world.submit(&["ada", "bob"]).await;
    for _ in 0..ATTEMPTS {
        let ada = world.claim_one().await;
        assert_eq!(ada.subject, "ada");
        world.lapse().await;
    }
    let ada = &world.job(&job).await.subjects[0];
    assert_eq!((ada.state(), ada.error.as_ref().unwrap().code()), (SubjectState::Failed, ErrorCode::WorkerLost));
    world.work().await;
    let job = world.job(&job).await;
    assert_eq!((job.state(), job.subjects[1].state()), (v1::JobState::PartlyFailed, SubjectState::Succeeded));
}

pub(crate) async fn a_failure_is_tried_again_only_where_that_may_help<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    world.fail(&world.claim_one().await, true).await.unwrap();
    let second = world.claim_one().await;
    assert_eq!(second.attempt, 2);
    world.fail(&second, false).await.unwrap();
    world.fail(&second, false).await.unwrap(); // repeated
    assert!(world.claim().await.is_empty());
    let job = world.job(&job).await;
    let error = job.subjects[0].error.as_ref().unwrap();
    assert_eq!((job.state(), error.code()), (v1::JobState::Failed, ErrorCode::Diverged));
    assert!(error.message.contains("NaN"), "{error:?}");
}

pub(crate) async fn a_drain_counts_no_try<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    for _ in 0..2 * ATTEMPTS {
        let grant = world.claim_one().await;
        assert_eq!(grant.attempt, 1);
        world.store.release(&Release { incarnation: world.worker, lease: lease(&grant) }).await.unwrap();
    }
}

pub(crate) async fn a_restarted_worker_gets_its_tasks_back_at_once<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    let old = world.claim_one().await;
    let reborn = Incarnation::new();
    world.register("node-1", reborn, vec![model('a')]).await;
    let new = world.claim_as(reborn, TaskKind::ALL).await.unwrap().pop().unwrap();
    assert_eq!((new.task_id.clone(), new.fence), (old.task_id.clone(), old.fence + 1));
    assert_eq!(world.renew(&old, None).await, Verdict::Lost);
    assert_eq!(code(world.claim_as(world.worker, TaskKind::ALL).await), ErrorCode::UnknownWorker);
}

pub(crate) async fn registering_again_changes_nothing_for_the_same_process<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    let grant = world.claim_one().await;
    world.register("node-1", world.worker, vec![model('a')]).await;
    assert_eq!(world.renew(&grant, None).await, Verdict::Continue);
}

pub(crate) async fn workers_get_only_what_they_can_do<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    assert!(world.claim_as(world.worker, &[TaskKind::Render]).await.unwrap().is_empty());
    let elsewhere = Incarnation::new();
    world.register("node-2", elsewhere, vec![model('b')]).await;
    assert!(world.claim_as(elsewhere, TaskKind::ALL).await.unwrap().is_empty());
    assert_eq!(code(world.claim_as(Incarnation::new(), TaskKind::ALL).await), ErrorCode::UnknownWorker);
}

pub(crate) async fn workers_that_claim_at_once_never_get_the_same_task<E: Engine>() {
    let world = World::<E>::new().await;
    let subjects: Vec<String> = (0..8).map(|number| format!("subject-{number}")).collect();
    for subject in &subjects {
        world.put(subject).await;
    }
    world.submit(&subjects.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let ask = ask(world.worker, TaskKind::ALL, 3);
    let claims = futures::future::join_all((0..4).map(|_| world.store.claim(&ask))).await;
    let mut tasks: Vec<_> = claims.into_iter().flat_map(Result::unwrap).map(|grant| grant.task_id).collect();
    assert_eq!(tasks.len(), 8);
    tasks.sort();
    tasks.dedup();
    assert_eq!(tasks.len(), 8);
}
