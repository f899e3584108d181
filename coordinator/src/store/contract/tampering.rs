//! Changes behind the store's back: those to the log that whoever owns the database could make, and what `verify` says of them; and rows as
//! an earlier release left them.

use super::*;
use crate::audit::{AuditLog, Broken, VerifyError};
use crate::counting;

/// A database that can be written to behind the store's back.
pub(crate) trait Tampering: Engine {
    fn log(&self) -> impl Future<Output = AuditLog>;
    /// What the database answers to a statement.
    fn run(&self, statement: &'static str) -> impl Future<Output = Result<(), sqlx::Error>>;
    /// Takes away what refuses changes.
    fn unlock(&self) -> impl Future<Output = ()>;
}

async fn world_of_five<E: Tampering>() -> World<E> {
    let world = World::<E>::new().await;
    for subject in ["ada", "bob", "cleo", "dan", "eve"] {
        world.put(subject).await;
    }
    world
}

fn broken(answer: Result<crate::audit::Verified, VerifyError>) -> Broken {
    match answer {
        Err(VerifyError::Broken(broken)) => broken,
        other => panic!("it must be found broken: {other:?}"),
    }
}

pub(crate) async fn the_log_refuses_to_be_changed_or_cut<E: Tampering>(statements: &[&'static str]) {
    let world = world_of_five::<E>().await;
    for statement in statements {
        let error = world.engine.run(statement).await.expect_err(statement).to_string();
        assert!(error.contains("takes entries and loses none"), "{statement}: {error}");
    }
    assert_eq!(world.engine.log().await.verify(None).await.unwrap().entries, 5);
}

pub(crate) async fn whoever_changes_the_log_all_the_same_is_found_out<E: Tampering>() {
    let changed =
        ["UPDATE audit SET actor = 'key:lk99' WHERE sequence = 3", "UPDATE audit SET at = at + 1 WHERE sequence = 3"];
    for statement in changed {
        let world = world_of_five::<E>().await;
        world.engine.unlock().await;
        world.engine.run(statement).await.unwrap();
        assert_eq!(broken(world.engine.log().await.verify(None).await), Broken::Changed { sequence: 3 });
        assert_eq!(counting::walk(&world.store, None).await.unwrap(), Err(Broken::Changed { sequence: 3 }));
    }
    let world = world_of_five::<E>().await;
    world.engine.unlock().await;
    world.engine.run("DELETE FROM audit WHERE sequence = 2").await.unwrap();
    let found = broken(world.engine.log().await.verify(None).await);
    assert_eq!(found, Broken::Missing { sequence: 2, instead: 3 });

    let world = world_of_five::<E>().await;
    world.engine.unlock().await;
    for swap in [
        "UPDATE audit SET sequence = 9 WHERE sequence = 2",
        "UPDATE audit SET sequence = 2 WHERE sequence = 3",
        "UPDATE audit SET sequence = 3 WHERE sequence = 9",
    ] {
        world.engine.run(swap).await.unwrap();
    }
    assert_eq!(broken(world.engine.log().await.verify(None).await), Broken::Unlinked { sequence: 2 });
}

pub(crate) async fn a_tail_that_was_cut_off_is_missed_by_whoever_noted_the_head<E: Tampering>() {
    let world = world_of_five::<E>().await;
    let head = world.engine.log().await.verify(None).await.unwrap().head;
    world.put("finn").await;
    let grown = world.engine.log().await.verify(Some(head)).await.unwrap();
    assert_eq!(grown.entries, 6, "it may grow");
    assert_eq!(counting::walk(&world.store, Some(head)).await.unwrap(), Ok(grown));
    world.engine.unlock().await;
    world.engine.run("DELETE FROM audit WHERE sequence > 3").await.unwrap();
    assert_eq!(world.engine.log().await.verify(None).await.unwrap().entries, 3, "by itself it looks whole");
    assert_eq!(broken(world.engine.log().await.verify(Some(head)).await), Broken::Truncated { last: 3, head });
    world.put("gil").await;
    assert_eq!(broken(world.engine.log().await.verify(Some(head)).await), Broken::Truncated { last: 4, head });
}

pub(crate) async fn workers_of_an_earlier_release_are_known_by_their_models<E: Tampering>() {
    let world = World::<E>::new().await;
    world.engine.run("UPDATE workers SET models = NULL").await.unwrap();
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    assert_eq!(job.base_model, model('a').digest.as_str());
}
