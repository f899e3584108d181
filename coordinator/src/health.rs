//! Whether a coordinator can do its work: its store and its bucket answer, and it is not on its way out.

use std::sync::Arc;
use std::time::Duration;

use likeness_proto::{ErrorCode, Refusal};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::service::Shared;
use crate::store::Store;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(5);
/// What has not answered by then does not answer.
const LIMIT: Duration = Duration::from_secs(4);

/// Sets `ready` to what is found until the shutdown, then to `false`. Does nothing while nobody listens.
pub(crate) async fn tell<S: Store>(shared: Arc<Shared<S>>, ready: watch::Sender<bool>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let look = async {
        loop {
            ticks.tick().await;
            if ready.is_closed() {
                continue;
            }
            let found = look(&shared).await;
            let was = ready.send_replace(found.is_ok());
            match found {
                Err(error) if was => tracing::warn!(%error, "not ready"),
                Ok(()) if !was => tracing::info!("ready"),
                _as_before => {}
            }
        }
    };
    shared.shutdown.run_until_cancelled(look).await.unwrap_or(());
    ready.send_replace(false);
}

async fn look<S: Store>(shared: &Shared<S>) -> Result<(), Refusal> {
    let looked = async {
        // Any read will do; this one looks into an index and finds nothing.
        shared.store.live_key("").await?;
        shared.bucket.answers().await
    };
    timeout(LIMIT, looked).await.unwrap_or_else(|_late| {
        let message = format!("store and bucket have not answered within {LIMIT:?}");
        Err(Refusal::new(ErrorCode::StorageUnavailable, message))
    })
}

#[cfg(test)]
mod tests {
    use object_store::local::LocalFileSystem;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::audit::Blind;
    use crate::bucket::Bucket;
    use crate::clock::ManualClock;
    use crate::limits::Limits;
    use crate::store::Policy;
    use crate::store::memory::{Database, Memory};

    #[tokio::test(start_paused = true)]
    async fn it_is_ready_while_store_and_bucket_answer_and_until_it_stops() {
        let folder = tempfile::tempdir().unwrap();
        let objects = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        let blind = Blind::new(&likeness_proto::Secret::new("pepper").unwrap());
        let policy = Policy { lease: Duration::from_secs(10), attempts: 1, base_model: None, blind };
        let store = Memory::open(&Arc::new(Database::default()), Arc::new(ManualClock::default()), policy);
        let bucket = Bucket::new(Arc::new(objects), None);
        let shared = Shared::new(store, bucket, Limits::default(), CancellationToken::new());
        let (ready, mut seen) = watch::channel(false);
        let told = tokio::spawn(tell(Arc::clone(&shared), ready));

        seen.wait_for(|ready| *ready).await.unwrap();
        // A file where the bucket's folder was: nothing in it can be looked up.
        std::fs::write(folder.path().join("probe"), "").unwrap();
        seen.wait_for(|ready| !*ready).await.unwrap();
        std::fs::remove_file(folder.path().join("probe")).unwrap();
        seen.wait_for(|ready| *ready).await.unwrap();
        shared.shutdown.cancel();
        seen.wait_for(|ready| !*ready).await.unwrap();
        told.await.unwrap();
    }
}
