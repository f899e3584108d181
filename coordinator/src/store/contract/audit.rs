//! What is logged, by whom, in which order, and what is not.

use likeness_proto::Role;

use super::*;
use crate::audit::{Action, Chain, Entry};
use crate::store::{NewKey, Reading};

impl<E: Engine> World<E> {
    /// The whole log, after it was walked.
    async fn log(&self) -> Vec<Entry> {
        let log = self.store.audited(0, 10_000).await.unwrap();
        let mut chain = Chain::new(None);
        log.iter().try_for_each(|entry| chain.follow(entry)).unwrap();
        assert_eq!(chain.end().unwrap().entries, log.len() as u64);
        log
    }

    async fn key(&self, prefix: &str) {
        let tenant = Some(self.tenant.clone());
        let key = NewKey { prefix: prefix.into(), hash: [7; 32], tenant, role: Role::Member, life: None };
        self.store.create_key(&key, &Actor::embedded()).await.unwrap();
    }
}

fn actions(log: &[Entry]) -> Vec<Action> {
    log.iter().map(|entry| Action::of(entry.action).expect("a known action")).collect()
}

pub(crate) async fn whatever_people_do_is_logged_in_its_order_and_names_nobody<E: Engine>() {
    let world = World::<E>::new().await;
    world.store.create_tenant(&world.tenant, &Terms::default(), &Actor::embedded()).await.unwrap();
    world.key("lk01").await;
    world.clock.advance(Duration::from_millis(1234));
    let photo = world.put("zoe").await.photos[0].object.clone().unwrap().key.parse().unwrap();
    let job = world.submit(&["zoe"]).await.id.parse().unwrap();
    world.store.open_object(&world.tenant, &photo, Reading::Here, &actor()).await.unwrap();
    world.store.open_object(&world.tenant, &photo, Reading::ByLink, &actor()).await.unwrap();
    world.store.cancel(&world.tenant, job, &actor()).await.unwrap();
    let forgotten = world.store.forget(&world.tenant, &name("zoe"), &asked()).await.unwrap();
    world.store.rotate_key("lk01", "lk02", [8; 32], Duration::ZERO, &actor()).await.unwrap();
    world.store.revoke_key("lk02", &Actor::embedded()).await.unwrap();

    let log = world.log().await;
    use Action::*;
    use likeness_proto::ObjectKind::Photo;
    let want = [
        TenantCreated,
        KeyCreated,
        SubjectPut,
        JobSubmitted,
        Downloaded(Photo),
        LinkSigned(Photo),
        JobCancelled,
        SubjectForgotten,
        KeyRotated,
        KeyRevoked,
    ];
    assert_eq!(actions(&log), want);
    assert_eq!((log[1].actor.as_str(), log[2].actor.as_str()), ("embedded", "key:lk01"));
    assert!(log.iter().all(|entry| entry.tenant == "acme"), "{log:?}");
    assert_eq!((log[1].at, log[2].at), (0, 1234), "by the store's clock");
    let zoe = policy().blind.subject(&world.tenant, &name("zoe"));
    assert_eq!((log[2].target, log[7].target), (zoe, zoe), "the same subject has the same hash");
    assert_eq!(log[3].target, policy().blind.job(job));
    assert_eq!((forgotten.entry.sequence, forgotten.entry.hash), (8, log[7].hash));
    // No digit of a hash is in her name.
    assert!(!format!("{log:?}").contains("zoe"), "a name stands in the log: {log:?}");
}

pub(crate) async fn what_did_not_happen_is_not_logged<E: Engine>() {
    let world = World::<E>::new().await;
    world.store.create_tenant(&world.tenant, &Terms::default(), &actor()).await.unwrap();
    world.key("lk01").await;
    world.put("ada").await;
    let job = world.submit(&["ada"]).await;
    world.store.revoke_key("lk01", &actor()).await.unwrap();
    let before = world.log().await.len();

    let tenant = &world.tenant;
    world.submit(&["ada"]).await;
    world.store.create_tenant(tenant, &Terms::default(), &actor()).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    world.store.revoke_key("lk01", &actor()).await.unwrap();
    let (nobody, nothing) = (name("nobody"), world.photo("nobody").object.key);
    assert!(world.store.open_object(tenant, &nothing, Reading::Here, &actor()).await.is_err());
    assert!(world.store.forget(tenant, &nobody, &asked()).await.is_err());
    assert!(world.store.forget(tenant, &name("ada"), &Cause::Retention).await.is_err(), "it is kept");
    assert!(world.try_submit("another", &["nobody"], true).await.is_err());
    assert!(world.store.cancel(tenant, JobId::new(), &actor()).await.is_err());
    assert!(world.store.rotate_key("lk99", "lk98", [1; 32], Duration::ZERO, &actor()).await.is_err());
    let upload = world.store.begin_upload(tenant, &name("ada")).await.unwrap();
    world.store.abandon_upload(&upload).await.unwrap();
    let grant = world.claim_one().await;
    world.renew(&grant, None).await;
    world.complete(&grant).await.unwrap();
    world.job(&job).await;

    assert_eq!(world.log().await.len(), before);
}

pub(crate) async fn those_who_act_at_once_are_logged_one_after_the_other<E: Engine>() {
    let world = World::<E>::new().await;
    let names: Vec<_> = (0..24).map(|number| format!("subject-{number}")).collect();
    futures::future::join_all(names.iter().map(|subject| world.put(subject))).await;
    let log = world.log().await;
    let targets: std::collections::BTreeSet<_> = log.iter().map(|entry| entry.target).collect();
    assert_eq!((log.len(), targets.len()), (24, 24));
    let rest = world.store.audited(20, 3).await.unwrap();
    assert_eq!(rest, log[20..23], "a page of it");
}

pub(crate) async fn what_was_put_after_a_tombstone_is_not_forgotten_by_it<E: Engine>() {
    let world = World::<E>::new().await;
    world.clock.advance(Duration::from_secs(60));
    world.put("ada").await;
    let page = world.store.subjects_after(None, 10).await.unwrap();
    let [(tenant, subject, stored)] = page.as_slice() else { panic!("one subject: {page:?}") };
    assert_eq!((tenant, subject.as_str(), stored.millis()), (&world.tenant, "ada", 60_000));
    assert!(world.store.subjects_after(Some(&(tenant.clone(), subject.clone())), 10).await.unwrap().is_empty());

    let earlier = Cause::Replay(crate::clock::Timestamp::from_millis(59_999));
    assert_eq!(code(world.store.forget(tenant, subject, &earlier).await), ErrorCode::UnknownSubject);
    let forgotten = world.store.forget(tenant, subject, &Cause::Replay(*stored)).await.unwrap();
    assert_eq!(actions(&world.log().await).last(), Some(&Action::ErasureReplayed));
    let tombstone = forgotten.erasure.tombstone.expect("it owes one");
    assert_eq!((tombstone.at, tombstone.entry), (forgotten.at, forgotten.entry));

    world.clock.advance(SWEEP_LIMIT);
    let world = world.reopened().await;
    let owed = world.store.owed(Sweep::Due).await.unwrap();
    let tombstones: Vec<_> = owed.iter().filter_map(|erasure| erasure.tombstone).collect();
    assert_eq!(tombstones, [tombstone], "owed until it was written, whoever does so");
}
