//! Counts for metrics what the store knows of the fleet, again and again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::metrics;
use crate::service::Shared;
use crate::store::Store;

/// Between two looks, at least.
const PERIOD: Duration = Duration::from_secs(5);
/// The pause is at least so many times what the look took: a store with millions of tasks is read for a fiftieth of the time.
const SPARING: u32 = 50;

/// Counts until it is aborted.
pub(crate) async fn count<S: Store>(shared: Arc<Shared<S>>) {
    loop {
        let began = Instant::now();
        match shared.store.census().await {
            Ok(census) => metrics::census(&census),
            Err(error) => tracing::warn!(%error, "what waits not counted, will be tried again"),
        }
        sleep(PERIOD.max(began.elapsed() * SPARING)).await;
    }
}
