//! Who works on what.

use super::*;

pub(crate) async fn the_roster_shows_who_works_on_what_and_to_a_tenant_its_own<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    assert_eq!(world.store.roster(None).await.unwrap().held, []);
    let train = world.claim_one().await;
    world.renew(&train, Some(Progress::Train(report(60, &[0.5; 60])))).await;

    let all = world.store.roster(None).await.unwrap();
    let [hand] = &all.workers[..] else { panic!("{all:?}") };
    assert_eq!((hand.name.as_str(), hand.incarnation, hand.kinds.as_slice()), ("node-1", world.worker, TaskKind::ALL));
    assert_eq!(hand.models, ["model-a"]);
    let [held] = &all.held[..] else { panic!("{all:?}") };
    assert_eq!((held.holder, held.job.to_string(), held.subject.as_str()), (world.worker, job.id, "ada"));
    let training = held.training.unwrap();
    assert_eq!((held.kind, training.step, training.steps_per_second), (TaskKind::Train, 60, 5.0));

    let own = world.store.roster(Some(&world.tenant)).await.unwrap();
    assert_eq!((own.workers, own.held), (vec![], all.held));
    assert_eq!(world.store.roster(Some(&"other".parse().unwrap())).await.unwrap(), Roster::default());

    world.complete(&train).await.unwrap();
    let render = world.claim_one().await;
    world.renew(&render, Some(Progress::Render { avatars_done: 2 })).await;
    let drawing = world.store.roster(None).await.unwrap().held;
    assert_eq!((drawing.len(), drawing[0].kind, drawing[0].training), (1, TaskKind::Render, None));
    assert_eq!(drawing[0].drawn, (2, 4));
}
