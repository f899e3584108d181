//! What is counted of the fleet.

use super::*;
use crate::lifecycle::JobState;
use crate::store::census::{Census, Class, Presence, WORKER_GONE, Waiting};

const SECOND: Duration = Duration::from_secs(1);

impl<E: Engine> World<E> {
    async fn census(&self) -> Census {
        self.store.census().await.unwrap()
    }
}

fn waiting(census: &Census, kind: TaskKind, class: Class) -> Option<(u64, Duration)> {
    census.waiting.get(&(kind, class)).map(|Waiting { tasks, oldest }| (*tasks, *oldest))
}

pub(crate) async fn what_waits_is_counted_and_so_is_who_works<E: Engine>() {
    let world = World::<E>::new().await;
    let idle = [((TaskKind::Train, Presence::Idle), 1)].into();
    assert_eq!(world.census().await, Census { workers: idle, ..Census::default() });

    let heavy = World { tenant: "weighty".parse().unwrap(), ..world };
    heavy.store.create_tenant(&heavy.tenant, &Terms { weight: 5, ..Terms::default() }, &actor()).await.unwrap();
    heavy.put("ada").await;
    heavy.submit(&["ada"]).await;
    let world = World { tenant: "acme".parse().unwrap(), ..heavy };
    world.put("ada").await;
    world.put("bob").await;
    world.submit(&["ada", "bob"]).await;
    world.clock.advance(SECOND);
    let census = world.census().await;
    assert_eq!(waiting(&census, TaskKind::Train, Class::Standard), Some((2, SECOND)));
    assert_eq!(waiting(&census, TaskKind::Train, Class::Heavy), Some((1, SECOND)));
    assert_eq!((census.waiting.len(), census.leases.len()), (2, 0), "renders wait for trainings, not for workers");
    assert_eq!(census.jobs, [(JobState::Queued, 2)]);

    let grants = world.claim().await;
    let census = world.census().await;
    assert_eq!((census.waiting.len(), census.leases), (0, [(TaskKind::Train, 3)].into()));
    assert_eq!(census.workers, [((TaskKind::Train, Presence::Working), 1)].into());
    assert_eq!(census.jobs, [(JobState::Running, 2)]);

    for grant in &grants {
        world.fail(grant, false).await.unwrap();
    }
    let census = world.census().await;
    assert_eq!((census.leases.len(), census.jobs), (0, vec![]), "ended jobs are not counted");
    world.clock.advance(WORKER_GONE);
    assert_eq!(world.census().await, Census::default(), "who asks for nothing is gone");
    world.claim().await;
    assert_eq!(world.census().await.workers, [((TaskKind::Train, Presence::Idle), 1)].into());
}

pub(crate) async fn a_task_waits_from_when_it_became_ready<E: Engine>() {
    let world = World::<E>::new().await;
    world.put("ada").await;
    world.submit(&["ada"]).await;
    world.clock.advance(SECOND);
    let train = world.claim_one().await;
    world.clock.advance(SECOND);
    world.complete(&train).await.unwrap();
    world.clock.advance(3 * SECOND);
    let census = world.census().await;
    assert_eq!(waiting(&census, TaskKind::Render, Class::Standard), Some((2, 3 * SECOND)));

    let render = world.claim_one().await;
    world.lapse().await;
    world.clock.advance(SECOND);
    let census = world.census().await;
    assert_eq!(waiting(&census, TaskKind::Render, Class::Standard), Some((2, 4 * SECOND + LEASE)), "the other one");
    let both = world.claim().await;
    assert!(both.iter().any(|grant| grant.task_id == render.task_id));
    world.store.release(&Release { incarnation: world.worker, lease: lease(&both[0]) }).await.unwrap();
    world.clock.advance(SECOND);
    assert_eq!(waiting(&world.census().await, TaskKind::Render, Class::Standard), Some((1, SECOND)));
}
