//! Checkpoints and losses of a training, over workers that come and go.

use super::*;

pub(crate) async fn a_successor_begins_at_the_last_committed_checkpoint<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    let first = world.claim_one().await;
    assert_eq!(world.renew(&first, checkpointed(&first, 50)).await, Verdict::Continue);
    let progress = Some(Progress::Train(report(60, &[0.5; 10])));
    assert_eq!(world.renew(&first, progress).await, Verdict::Continue);
    let training = world.job(&job).await.subjects[0].training.unwrap();
    assert_eq!((training.step, training.checkpoint_step, training.max_steps), (60, 50, 400));

    world.lapse().await;
    assert_eq!(world.renew(&first, checkpointed(&first, 100)).await, Verdict::Lost);
    let second = world.claim_one().await;
    let Some(v1::grant::Work::Train(work)) = &second.work else { panic!("{second:?}") };
    let checkpoint = work.checkpoint.as_ref().unwrap();
    assert_eq!(checkpoint.step, 50);
    assert_eq!(checkpoint.object, Some(output(&first, &checkpoint_name(50)).into()), "a stale one is never seen");
    assert_eq!(world.job(&job).await.subjects[0].training.unwrap().step, 50);
}

pub(crate) async fn a_training_that_gets_further_is_given_new_tries<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    for step in 1..=2 * ATTEMPTS {
        let grant = world.claim_one().await;
        world.renew(&grant, checkpointed(&grant, step)).await;
        world.lapse().await;
    }
    assert_eq!(world.claim_one().await.attempt, 2);
}

pub(crate) async fn the_loss_curve_has_no_holes_and_follows_the_successor<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    let grant = world.claim_one().await;
    let first: Vec<f32> = (1..=300).map(|step| step as f32).collect();
    let evaluations = [1, 250].map(|step| Evaluation { step, loss: 0.25 }).to_vec();
    world.renew(&grant, Some(Progress::Train(TrainReport { evaluations, ..report(300, &first) }))).await;
    world.renew(&grant, Some(Progress::Train(report(600, &first)))).await;
    // A successor that begins at step 200.
    world.renew(&grant, Some(Progress::Train(report(210, &[7.0; 10])))).await;

    let id = job.id.parse().unwrap();
    let curve = world.store.losses(&world.tenant, id, &name("ada")).await.unwrap();
    let want: Vec<f32> = (1..=200).map(|step| step as f32).chain([7.0; 10]).collect();
    assert_eq!((curve.first_step, curve.losses), (1, want));
    assert_eq!(curve.evaluations, [v1::Evaluation { step: 1, loss: 0.25 }]);
    assert_eq!(code(world.store.losses(&world.tenant, id, &name("bob")).await), ErrorCode::UnknownSubject);
}
