//! What may be removed from the bucket, and that all of it is.

use std::collections::BTreeSet;

use object_store::memory::InMemory;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::bucket::Bucket;
use crate::sweep::{self, Turn};

/// A bucket beside a world's store.
struct Yard<E: Engine> {
    world: World<E>,
    bucket: Bucket,
    own: Uuid,
}

impl<E: Engine> Yard<E> {
    async fn new() -> Self {
        let bucket = Bucket::new(Arc::new(InMemory::new()), None);
        let yard = Self { world: World::new().await, bucket, own: Uuid::new_v4() };
        yard.world.store.create_tenant(&yard.world.tenant, &Terms::default(), &actor()).await.unwrap();
        yard
    }

    async fn write(&self, object: &ObjectRef) {
        self.bucket.put(&object.key, b"bytes".to_vec()).await.unwrap();
    }

    /// Photos and a job.
    async fn submit(&self, subject: &str) -> v1::Job {
        self.world.put(subject).await;
        self.write(&self.world.photo(subject).object).await;
        self.world.try_submit(&Uuid::new_v4().to_string(), &[subject], true).await.unwrap()
    }

    /// Writes what a task's result names, without telling of it.
    async fn write_result(&self, grant: &v1::Grant) {
        match result(grant) {
            TaskResult::Train { embedding, .. } => self.write(&embedding).await,
            TaskResult::Render { avatars, .. } => {
                for avatar in &avatars {
                    self.write(&avatar.object).await;
                }
            }
            TaskResult::Assemble { contact_sheet } => self.write(&contact_sheet).await,
            TaskResult::Preview { picture } => self.write(&picture).await,
        }
    }

    async fn keys(&self) -> BTreeSet<String> {
        use futures::TryStreamExt;
        self.bucket.list_all().map_ok(|object| object.key.to_string()).try_collect().await.unwrap()
    }

    async fn collect(&self) {
        let shutdown = CancellationToken::new();
        let turn = Turn { store: &self.world.store, own: self.own, shutdown: &shutdown };
        sweep::collect(&turn, &self.bucket).await.unwrap();
        sweep::owed(&self.world.store, &self.bucket, Sweep::Due).await.unwrap();
    }

    async fn is_published(&self, key: &str) -> bool {
        self.world.store.object(&self.world.tenant, &key.parse().unwrap()).await.is_ok()
    }

    /// Has a training's vectors of a step drawn.
    async fn preview(&self, train: &v1::Grant, step: u32) {
        self.write(&output(train, &snapshot_name(step))).await;
        self.world.renew(train, previewed(train, step)).await;
    }

    /// A preview that was granted has what it is to be drawn with.
    async fn check_grants(&self, grants: &[v1::Grant]) {
        let keys = self.keys().await;
        for grant in grants {
            let Some(v1::grant::Work::Preview(work)) = &grant.work else { continue };
            let vectors = work.render.as_ref().and_then(|render| render.embedding.as_ref()).unwrap();
            assert!(keys.contains(&vectors.key), "{} is gone", vectors.key);
        }
    }

    /// Whatever people can see of the subjects is there.
    async fn check(&self) {
        let keys = self.keys().await;
        for subject in self.world.store.subjects(&self.world.tenant).await.unwrap() {
            for photo in &subject.photos {
                assert!(keys.contains(&photo.object.as_ref().unwrap().key), "a photo is gone");
            }
            let embedding = subject.embedding.and_then(|embedding| embedding.object);
            assert!(embedding.is_none_or(|object| keys.contains(&object.key)), "an embedding is gone");
        }
        for job in self.world.store.jobs(&self.world.tenant, 100).await.unwrap() {
            for subject in &job.subjects {
                let avatars = subject.avatars.iter().filter_map(|avatar| avatar.object.as_ref());
                let previews = subject.previews.iter().filter_map(|preview| preview.object.as_ref());
                for object in avatars.chain(previews).chain(&subject.contact_sheet) {
                    assert!(keys.contains(&object.key), "{} is gone", object.key);
                }
            }
        }
    }
}

pub(crate) async fn outputs_of_lost_leases_and_ended_tasks_are_garbage_and_nothing_else<E: Engine>() {
    let yard = Yard::<E>::new().await;
    let job = yard.submit("ada").await;
    let lost = yard.world.claim_one().await;
    let kept = output(&lost, &checkpoint_name(10));
    yard.write(&kept).await;
    yard.world.renew(&lost, checkpointed(&lost, 10)).await;
    yard.write_result(&lost).await;
    yard.collect().await;
    assert_eq!(yard.keys().await.len(), 3, "the lease goes on: photo, checkpoint and what it is writing");

    yard.world.lapse().await;
    yard.collect().await;
    assert!(yard.keys().await.contains(kept.key.as_str()), "the next lease begins there");
    assert_eq!(yard.keys().await.len(), 2);

    let train = yard.world.claim_one().await;
    yard.write_result(&train).await;
    yard.write_result(&lost).await; // a worker that does not know yet
    yard.world.complete(&train).await.unwrap();
    let render = yard.world.claim_one().await;
    yard.write_result(&render).await;
    yard.collect().await;
    assert!(!yard.keys().await.contains(kept.key.as_str()), "nothing begins there any more");

    yard.world.store.cancel(&yard.world.tenant, job.id.parse().unwrap(), &actor()).await.unwrap();
    yard.collect().await;
    let embedding = output(&train, "embedding.safetensors").key.to_string();
    let photo = yard.world.photo("ada").object.key.to_string();
    assert_eq!(yard.keys().await, BTreeSet::from([embedding, photo]));
}

pub(crate) async fn vectors_are_kept_until_they_are_drawn_and_the_preview_as_long_as_its_subject<E: Engine>() {
    let yard = Yard::<E>::new().await;
    yard.submit("ada").await;
    let train = yard.world.claim_one().await;
    let vectors = |step| output(&train, &snapshot_name(step)).key.to_string();
    for step in [50, 100] {
        yard.preview(&train, step).await;
    }
    yard.world.lapse().await;
    yard.collect().await;
    let keys = yard.keys().await;
    assert!(!keys.contains(&vectors(50)), "a newer preview took its place");
    assert!(keys.contains(&vectors(100)), "the preview waits, whoever has the training now");

    let successor = yard.world.claim_one().await;
    let ask = yard.world.claim_as(yard.world.worker, &[TaskKind::Preview]).await.unwrap();
    let [preview] = &ask[..] else { panic!("{ask:?}") };
    yard.write_result(&successor).await;
    yard.world.complete(&successor).await.unwrap();
    yard.collect().await;
    yard.check_grants(&ask).await;

    yard.write_result(preview).await;
    yard.world.complete(preview).await.unwrap();
    yard.collect().await;
    let (keys, picture) = (yard.keys().await, output(preview, &avatar_name(0)).key.to_string());
    assert!(!keys.contains(&vectors(100)), "it is drawn");
    assert!(keys.contains(&picture) && yard.is_published(&picture).await);
    yard.check().await;

    let forgotten = yard.world.store.forget(&yard.world.tenant, &name("ada"), &asked()).await.unwrap();
    yard.world.store.swept(&forgotten.erasure).await.unwrap();
    yard.collect().await;
    assert!(yard.keys().await.is_empty());
}

pub(crate) async fn photos_that_nobody_committed_are_garbage_unless_an_upload_goes_on<E: Engine>() {
    let yard = Yard::<E>::new().await;
    yard.submit("ada").await;
    let stray = yard.world.photo("bob").object.key;
    let stray = ObjectRef::of(stray.as_str().replace("/bob/", "/ada/").parse().unwrap(), b"bob");
    yard.write(&stray).await;
    let going = yard.world.store.begin_upload(&yard.world.tenant, &name("ada")).await.unwrap();
    yard.collect().await;
    assert!(yard.keys().await.contains(stray.key.as_str()), "it may be the upload's");
    yard.world.store.abandon_upload(&going).await.unwrap();
    yard.collect().await;
    assert_eq!(yard.keys().await, BTreeSet::from([yard.world.photo("ada").object.key.to_string()]));
    yard.world.put("ada").await; // and uploads are let in again
}

pub(crate) async fn whatever_happens_garbage_goes_and_nothing_else<E: Engine>() {
    for seed in 1..=6 {
        whatever_happens_by::<E>(seed).await;
    }
}

async fn whatever_happens_by<E: Engine>(seed: u64) {
    let yard = Yard::<E>::new().await;
    let mut state = seed;
    let mut dice = |sides: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % sides
    };
    let mut grants: Vec<v1::Grant> = Vec::new();
    for _ in 0..60 {
        match (dice(10), grants.len()) {
            (0, _) => drop(yard.submit(["ada", "bob", "eve"][dice(3) as usize]).await),
            (1 | 2, _) => {
                let granted = yard.world.claim_as(yard.world.worker, TaskKind::ALL).await.unwrap();
                yard.check_grants(&granted).await;
                grants.extend(granted);
            }
            (3, 1..) => yard.write_result(&grants[dice(grants.len() as u64) as usize]).await,
            (4, 1..) => {
                let grant = &grants[dice(grants.len() as u64) as usize];
                if matches!(grant.work, Some(v1::grant::Work::Train(_))) {
                    let step = 1 + dice(50) as u32;
                    yard.write(&output(grant, &checkpoint_name(step))).await;
                    yard.world.renew(grant, checkpointed(grant, step)).await;
                }
            }
            (9, 1..) => {
                let grant = &grants[dice(grants.len() as u64) as usize];
                if matches!(grant.work, Some(v1::grant::Work::Train(_))) {
                    yard.preview(grant, 1 + dice(50) as u32).await;
                }
            }
            (5 | 6, 1..) => {
                let grant = grants.swap_remove(dice(grants.len() as u64) as usize);
                yard.write_result(&grant).await;
                drop(yard.world.complete(&grant).await); // refused when it is stale
            }
            (7, _) => yard.world.lapse().await,
            _ => yard.collect().await,
        }
        yard.check().await;
    }
    // Everything ends: leases lapse, jobs are cancelled.
    for job in yard.world.store.jobs(&yard.world.tenant, 100).await.unwrap() {
        drop(yard.world.store.cancel(&yard.world.tenant, job.id.parse().unwrap(), &actor()).await);
    }
    yard.collect().await;
    yard.check().await;
    for key in yard.keys().await {
        assert!(yard.is_published(&key).await, "{key} is left (seed {seed})");
    }
}

pub(crate) async fn a_tenant_that_keeps_nothing_for_long_has_old_subjects_forgotten<E: Engine>() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let yard = Yard::<E>::new().await;
    let brief = World { tenant: "brief".parse().unwrap(), ..yard.world };
    brief
        .store
        .create_tenant(&brief.tenant, &Terms { retention_days: 30, ..Terms::default() }, &actor())
        .await
        .unwrap();
    let yard = Yard { world: brief, bucket: yard.bucket, own: yard.own };
    yard.submit("ada").await;
    yard.world.clock.advance(DAY * 31);
    yard.collect().await;
    assert_eq!(yard.world.store.subjects(&yard.world.tenant).await.unwrap().len(), 1, "its job goes on");
    yard.world.fail(&yard.world.claim_one().await, false).await.unwrap();
    yard.world.clock.advance(DAY * 29);
    yard.collect().await;
    assert_eq!(yard.world.store.subjects(&yard.world.tenant).await.unwrap().len(), 1);
    yard.world.clock.advance(DAY);
    yard.collect().await;
    assert!(yard.world.store.subjects(&yard.world.tenant).await.unwrap().is_empty());
    assert!(yard.keys().await.is_empty());
}

pub(crate) async fn a_turn_is_one_holders_until_it_ends<E: Engine>() {
    let world = World::<E>::new().await;
    let (one, other, span) = (Uuid::new_v4(), Uuid::new_v4(), Duration::from_secs(60));
    let take = async |holder| world.store.take_turn("upkeep", holder, span).await.unwrap();
    assert!(take(one).await);
    assert!(!take(other).await);
    world.clock.advance(span / 2);
    assert!(take(one).await, "kept");
    world.clock.advance(span - Duration::from_millis(1));
    assert!(!take(other).await);
    world.clock.advance(Duration::from_millis(1));
    assert!(take(other).await);
    assert!(!take(one).await);
}
