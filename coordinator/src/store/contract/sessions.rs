//! Sessions of the status page.

use super::*;
use crate::clock::Clock;

const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn a_session_that_was_ended_stays_so_and_others_go_on<E: Engine>() {
    let world = World::<E>::new().await;
    let ends = world.clock.now() + DAY;
    assert!(!world.store.session_ended(&[1; 12]).await.unwrap());
    for session in [[1; 12], [1; 12], [2; 12]] {
        world.store.end_session(&session, ends).await.unwrap();
    }
    world.clock.advance(DAY);
    let world = world.reopened().await;
    world.store.end_session(&[3; 12], ends + DAY).await.unwrap();
    for (session, ended) in [(1, true), (2, true), (3, true), (4, false)] {
        assert_eq!(world.store.session_ended(&[session; 12]).await.unwrap(), ended, "{session}");
    }
}
