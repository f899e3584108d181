//! A coordinator but for its listener: what its services share, and the work that goes on beside them.

use std::sync::Arc;
use std::time::Duration;

use likeness_proto::{Refusal, TenantId};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::audit::Actor;
use crate::bucket::Bucket;
use crate::limits::Limits;
use crate::service::Shared;
use crate::store::{Store, Sweep, Terms};
use crate::sweep::{self, Turn};

/// A coordinator that is open.
pub(crate) struct Office<S> {
    pub(crate) shared: Arc<Shared<S>>,
    background: [(&'static str, JoinHandle<()>); 2],
}

impl<S: Store> Office<S> {
    /// Opens on a store and a bucket, until `shutdown`. `own` tells this coordinator from others over the same store.
    ///
    /// # Errors
    /// When the store or the bucket is out of order.
    pub(crate) async fn open(
        store: S,
        bucket: Bucket,
        limits: Limits,
        tenants: &[TenantId],
        own: Uuid,
        shutdown: &CancellationToken,
    ) -> Result<Self, Refusal> {
        bucket.probe().await?;
        // Whatever the last run left half erased goes before anybody can ask for it.
        store.expire().await?;
        for tenant in tenants {
            store.create_tenant(tenant, &Terms::default(), &Actor::coordinator()).await?;
        }
        sweep::replay(&store, &bucket).await?;
        if (Turn { store: &store, own, shutdown }).goes_on().await? {
            sweep::owed(&store, &bucket, Sweep::All).await?;
        }
        let shared = Shared::new(store, bucket, limits, shutdown.child_token());
        let expiry = tokio::spawn(expire(Arc::clone(&shared)));
        let janitor = tokio::spawn(tidy(Arc::clone(&shared), own));
        Ok(Self { shared, background: [("expiry", expiry), ("janitor", janitor)] })
    }

    /// Ends what goes on in the background, and the store's connections.
    pub(crate) async fn close(self) {
        self.shared.shutdown.cancel();
        for (name, task) in self.background {
            if let Err(error) = task.await {
                tracing::error!(task = name, %error, "background task died");
            }
        }
        self.shared.store.close().await;
    }
}

/// Takes back leases and uploads that have run out, several times in the life of a lease.
async fn expire<S: Store>(shared: Arc<Shared<S>>) {
    let period = (shared.store.policy().lease / 4).clamp(Duration::from_millis(20), Duration::from_secs(1));
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _tick = ticks.tick() => {}
            () = shared.shutdown.cancelled() => return,
        }
        if let Err(error) = shared.store.expire().await {
            tracing::error!(%error, "expired leases not taken back, will be tried again");
        }
    }
}

/// Does the sweeps that are owed, and now and then looks for garbage, while it is this coordinator's turn.
async fn tidy<S: Store>(shared: Arc<Shared<S>>, own: Uuid) {
    const PERIOD: Duration = Duration::from_secs(5);
    /// The whole bucket is listed for it.
    const COLLECT: Duration = Duration::from_secs(15 * 60);
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut collected = Instant::now();
    loop {
        tokio::select! {
            biased;
            _tick = ticks.tick() => {}
            () = shared.shutdown.cancelled() => return,
        }
        let is_due = collected.elapsed() >= COLLECT;
        match upkeep(&shared, own, is_due).await {
            Ok(()) if is_due => collected = Instant::now(),
            Ok(()) => {}
            Err(error) => tracing::error!(%error, "upkeep not done, will be tried again"),
        }
    }
}

async fn upkeep<S: Store>(shared: &Shared<S>, own: Uuid, collects: bool) -> Result<(), Refusal> {
    let turn = Turn { store: &shared.store, own, shutdown: &shared.shutdown };
    if !turn.goes_on().await? {
        return Ok(());
    }
    sweep::owed(&shared.store, &shared.bucket, Sweep::Due).await?;
    if collects {
        let gone = sweep::collect(&turn, &shared.bucket).await?;
        tracing::info!(objects = gone, "garbage collected");
    }
    Ok(())
}
