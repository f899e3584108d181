//! Looks for metrics at what the store knows of the fleet, and whether its audit log is what was written, again and again.

use std::sync::Arc;
use std::time::Duration;

use likeness_proto::Sha256;
use tokio::time::{Instant, sleep};

use crate::audit::{Broken, Chain, Verified};
use crate::metrics;
use crate::service::Shared;
use crate::store::{Store, StoreError};

/// Between two counts, at least.
const PERIOD: Duration = Duration::from_secs(5);
/// The pause is at least so many times what the look took: a store with millions of tasks is read for a fiftieth of the time.
const SPARING: u32 = 50;
/// Between two walks along the audit log.
const WALK: Duration = Duration::from_secs(600);
/// Entries of the log that are read together.
const PAGE: u32 = 1000;

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

/// Walks along the audit log until it is aborted. What this process has once seen of it must be there the next time.
pub(crate) async fn verify<S: Store>(shared: Arc<Shared<S>>) {
    let mut noted = None;
    loop {
        match walk(&shared.store, noted).await {
            Ok(found) => {
                metrics::audit(&found);
                match found {
                    Ok(Verified { head, .. }) => noted = Some(head),
                    Err(broken) => tracing::error!(%broken, "the audit log is not what was written"),
                }
            }
            Err(error) => tracing::warn!(%error, "audit log not read, will be tried again"),
        }
        sleep(WALK).await;
    }
}

/// The log from its first entry to its last, read sparingly; `noted`: a head that it had once.
///
/// # Errors
/// When it cannot be read.
pub(crate) async fn walk<S: Store>(store: &S, noted: Option<Sha256>) -> Result<Result<Verified, Broken>, StoreError> {
    let (mut chain, mut last) = (Chain::new(noted), 0);
    loop {
        let began = Instant::now();
        let page = store.audited(last, PAGE).await?;
        if let Err(broken) = page.iter().try_for_each(|entry| chain.follow(entry)) {
            return Ok(Err(broken));
        }
        match page.last() {
            Some(entry) => last = entry.sequence,
            None => return Ok(chain.end()),
        }
        sleep(began.elapsed() * SPARING).await;
    }
}
