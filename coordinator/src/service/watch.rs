//! Watching a job: the job as it stands, then again whenever it changes, until it has ended.

use std::sync::Arc;

use futures::Stream;
use likeness_proto::v1::Job;
use likeness_proto::{JobId, Refusal, TenantId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Shared, shutting_down};
use crate::lifecycle::JobState;
use crate::metrics;
use crate::store::Store;

/// Streams the job. While the watcher is slow, changes run together: it always gets the newest.
pub(crate) async fn watch<S: Store>(
    shared: Arc<Shared<S>>,
    tenant: TenantId,
    id: JobId,
) -> Result<impl Stream<Item = Result<Job, Status>> + Send + 'static, Refusal> {
    let mut changes = shared.store.signals().job(&tenant, id);
    let mut job = shared.store.job(&tenant, id).await?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let _watch = metrics::watch();
        loop {
            let (revision, ended) = (job.revision, JobState::decode(job.state).is_none_or(JobState::ended));
            if sender.send(Ok(job)).await.is_err() || ended {
                return;
            }
            job = loop {
                tokio::select! {
                    biased;
                    () = changes.changed() => {}
                    () = sender.closed() => return,
                    () = shared.shutdown.cancelled() => return drop(sender.send(Err(shutting_down().into())).await),
                }
                // On the heap while it lasts: a watch mostly waits, and there are many.
                match Box::pin(shared.store.job(&tenant, id)).await {
                    Ok(next) if next.revision > revision => break next,
                    Ok(_unchanged) => {}
                    Err(error) => return drop(sender.send(Err(Refusal::from(error).into())).await),
                }
            };
        }
    });
    Ok(ReceiverStream::new(receiver))
}
