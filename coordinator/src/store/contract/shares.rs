//! How the fleet is shared between tenants, and what a tenant may have.

use super::*;

impl<E: Engine> World<E> {
    /// A tenant on these terms, with a subject of its own.
    async fn with_tenant(&self, tenant: &str, terms: Terms) -> TenantId {
        let tenant: TenantId = tenant.parse().unwrap();
        self.store.create_tenant(&tenant, &terms, &actor()).await.unwrap();
        self.put_for(&tenant, "ada").await.unwrap();
        tenant
    }

    async fn put_for(&self, tenant: &TenantId, subject: &str) -> Result<v1::Subject, StoreError> {
        let upload = self.store.begin_upload(tenant, &name(subject)).await?;
        let sha256 = Sha256::of(subject.as_bytes());
        let object = ObjectRef { key: photo_key(tenant, &name(subject), &sha256), sha256, size: 3 };
        let photo = Photo { file_name: "a.png".into(), object, width: 32, height: 64, caption: None };
        self.store.commit_upload(&upload, &consent(), &[photo], &actor()).await
    }

    async fn submit_for(&self, tenant: &TenantId, key: &str, priority: i32) -> Result<v1::Job, StoreError> {
        let wire = v1::SubmitJobRequest { priority, ..request(key, &["ada"], true) };
        self.store.submit(tenant, &wire.try_into().unwrap(), [0; 32], &actor()).await
    }

    /// Claims trainings one by one, this many times; whose they are.
    async fn served(&self, times: usize) -> Vec<String> {
        let mut served = Vec::new();
        for _ in 0..times {
            let ask = ask(self.worker, &[TaskKind::Train], 1);
            let grants = self.store.claim(&ask).await.unwrap();
            served.extend(grants.iter().map(|grant| grant.output_prefix.split('/').nth(1).unwrap().to_owned()));
        }
        served
    }
}

fn limited(limits: Limits) -> Terms {
    Terms { limits, ..Terms::default() }
}

pub(crate) async fn tenants_are_served_in_turn_whoever_came_first<E: Engine>() {
    let world = World::<E>::new().await;
    let (early, late) =
        (world.with_tenant("early", Terms::default()).await, world.with_tenant("late", Terms::default()).await);
    for job in 0..6 {
        world.submit_for(&early, &job.to_string(), 0).await.unwrap();
    }
    world.served(2).await;
    for job in 0..4 {
        world.submit_for(&late, &job.to_string(), 0).await.unwrap();
    }
    let served = world.served(8).await;
    assert_eq!(served.iter().filter(|tenant| *tenant == "late").count(), 4);
    let waited = served[..5].iter().filter(|tenant| *tenant == "late").count();
    assert!(waited >= 2, "the one that came late waited for the other's: {served:?}");
}

pub(crate) async fn a_heavier_tenant_is_served_more_often<E: Engine>() {
    let world = World::<E>::new().await;
    let light = world.with_tenant("light", Terms::default()).await;
    let heavy = world.with_tenant("heavy", Terms { weight: 3, ..Terms::default() }).await;
    for job in 0..9 {
        world.submit_for(&light, &job.to_string(), 0).await.unwrap();
        world.submit_for(&heavy, &job.to_string(), 0).await.unwrap();
    }
    let served = world.served(12).await;
    assert_eq!(served.iter().filter(|tenant| *tenant == "heavy").count(), 9, "{served:?}");
}

pub(crate) async fn one_claim_of_many_tasks_is_dealt_among_tenants<E: Engine>() {
    let world = World::<E>::new().await;
    for tenant in ["one", "two"] {
        let tenant = world.with_tenant(tenant, Terms::default()).await;
        for job in 0..4 {
            world.submit_for(&tenant, &job.to_string(), 0).await.unwrap();
        }
    }
    let grants = world.store.claim(&ask(world.worker, &[TaskKind::Train], 4)).await.unwrap();
    let mut tenants: Vec<_> = grants.iter().map(|grant| grant.output_prefix.split('/').nth(1).unwrap()).collect();
    tenants.sort_unstable();
    assert_eq!(tenants, ["one", "one", "two", "two"]);
}

pub(crate) async fn a_job_of_higher_priority_overtakes_its_tenants_own_and_nobody_elses<E: Engine>() {
    let world = World::<E>::new().await;
    let (one, two) =
        (world.with_tenant("one", Terms::default()).await, world.with_tenant("two", Terms::default()).await);
    let first = world.submit_for(&one, "first", 0).await.unwrap();
    let urgent = world.submit_for(&one, "urgent", 5).await.unwrap();
    world.submit_for(&two, "other", -5).await.unwrap();
    let grants = world.store.claim(&ask(world.worker, &[TaskKind::Train], 2)).await.unwrap();
    let jobs: Vec<_> = grants.iter().map(|grant| grant.job_id.as_str()).collect();
    assert!(jobs.contains(&urgent.id.as_str()) && !jobs.contains(&first.id.as_str()), "{jobs:?}");
}

pub(crate) async fn a_tenant_has_no_more_tasks_running_than_it_may<E: Engine>() {
    let world = World::<E>::new().await;
    let few = world.with_tenant("few", limited(Limits { running_tasks: 2, ..Limits::default() })).await;
    let free = world.with_tenant("free", Terms::default()).await;
    for job in 0..3 {
        world.submit_for(&few, &job.to_string(), 0).await.unwrap();
        world.submit_for(&free, &job.to_string(), 0).await.unwrap();
    }
    let ask = ask(world.worker, &[TaskKind::Train], 100);
    let grants = world.store.claim(&ask).await.unwrap();
    assert_eq!(grants.len(), 5, "two of the one, all of the other");
    assert!(world.store.claim(&ask).await.unwrap().is_empty());
    let mut ready = world.store.signals().ready();
    ready.forget();
    let of_few = grants.iter().find(|grant| grant.output_prefix.starts_with("v1/few/")).unwrap();
    world.store.release(&Release { incarnation: world.worker, lease: lease(of_few) }).await.unwrap();
    assert!(ready.has_changed(), "who waits for work is told");
    assert_eq!(world.store.claim(&ask).await.unwrap().len(), 1);
    let more = TermsChange { running_tasks: Some(0), ..TermsChange::default() };
    world.store.update_tenant(&few, &more, &actor()).await.unwrap();
    assert_eq!(world.store.claim(&ask).await.unwrap().len(), 1);
}

pub(crate) async fn claims_at_once_do_not_exceed_a_tenants_limit<E: Engine>() {
    let world = World::<E>::new().await;
    let few = world.with_tenant("few", limited(Limits { running_tasks: 3, ..Limits::default() })).await;
    let free = world.with_tenant("free", Terms::default()).await;
    for job in 0..8 {
        world.submit_for(&few, &job.to_string(), 0).await.unwrap();
        world.submit_for(&free, &job.to_string(), 0).await.unwrap();
    }
    let ask = ask(world.worker, &[TaskKind::Train], 4);
    let claims = futures::future::join_all((0..6).map(|_| world.store.claim(&ask))).await;
    let grants: Vec<_> = claims.into_iter().flat_map(Result::unwrap).collect();
    let of_few = grants.iter().filter(|grant| grant.output_prefix.starts_with("v1/few/")).count();
    assert!(of_few <= 3, "{of_few} tasks run");
}

pub(crate) async fn a_tenant_held_back_by_its_limit_has_no_claim_on_what_others_got<E: Engine>() {
    let world = World::<E>::new().await;
    let held = world.with_tenant("held", limited(Limits { running_tasks: 1, ..Limits::default() })).await;
    let free = world.with_tenant("free", Terms::default()).await;
    for job in 0..20 {
        world.submit_for(&held, &job.to_string(), 0).await.unwrap();
        world.submit_for(&free, &job.to_string(), 0).await.unwrap();
    }
    world.served(12).await;
    world.store.expire().await.unwrap();
    let more = TermsChange { running_tasks: Some(0), ..TermsChange::default() };
    world.store.update_tenant(&held, &more, &actor()).await.unwrap();
    let served = world.served(6).await;
    let of_free = served.iter().filter(|tenant| *tenant == "free").count();
    assert!((2..=4).contains(&of_free), "{served:?}");
}

pub(crate) async fn a_tenant_queues_no_more_jobs_than_it_may<E: Engine>() {
    let world = World::<E>::new().await;
    let tenant = world.with_tenant("few", limited(Limits { queued_jobs: 1, ..Limits::default() })).await;
    let first = world.submit_for(&tenant, "first", 0).await.unwrap();
    let refusal = Refusal::from(world.submit_for(&tenant, "second", 0).await.unwrap_err());
    assert_eq!(refusal.code, ErrorCode::QuotaExceeded);
    assert!(refusal.retry_after.is_some(), "waiting helps");
    assert_eq!(
        world.submit_for(&tenant, "first", 0).await.unwrap().id,
        first.id,
        "a repeated request is no second job"
    );
    world.store.cancel(&tenant, first.id.parse().unwrap(), &actor()).await.unwrap();
    world.submit_for(&tenant, "second", 0).await.unwrap();
}

pub(crate) async fn a_tenant_stores_no_more_than_it_may<E: Engine>() {
    let world = World::<E>::new().await;
    let photos = world.with_tenant("photos", limited(Limits { photos: 2, ..Limits::default() })).await;
    world.put_for(&photos, "bob").await.unwrap();
    let refusal = Refusal::from(world.put_for(&photos, "eve").await.unwrap_err());
    assert_eq!((refusal.code, refusal.retry_after), (ErrorCode::QuotaExceeded, None));
    world.store.forget(&photos, &name("bob"), &asked()).await.unwrap();
    world.put_for(&photos, "eve").await.unwrap();

    let bytes = world.with_tenant("bytes", limited(Limits { bytes: 3, ..Limits::default() })).await;
    assert_eq!(code(world.put_for(&bytes, "bob").await), ErrorCode::QuotaExceeded);
    assert_eq!(code(world.submit_for(&bytes, "job", 0).await), ErrorCode::QuotaExceeded, "a job would store more");
}
