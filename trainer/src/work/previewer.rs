//! Puts vectors into the bucket for previews to be drawn with, beside the loop that makes them, which never waits for it.

use std::sync::Arc;

use likeness_diffusion::BaseModel;
use likeness_proto::{Snapshot as Reported, snapshot_name};
use likeness_worker::Task;
use tokio::{sync::watch, task::JoinHandle};
use tracing::{Instrument, info, warn};

use super::Order;
use crate::Snapshot;

/// The end that the training loop leaves vectors in; never blocks. Newer ones take the place of those not yet put.
pub(crate) type Inbox = watch::Sender<Option<Snapshot>>;

/// Puts the newest vectors left in its inbox and has them reported, until it is dropped: at the end of training nobody wants them any more.
pub(crate) struct Previewer(JoinHandle<()>);

impl Previewer {
    pub(crate) fn start(task: &Task, order: &Arc<Order>, model: &Arc<BaseModel>) -> (Self, Inbox) {
        let (inbox, mut newest) = watch::channel(None::<Snapshot>);
        let (task, order, model) = (task.clone(), Arc::clone(order), Arc::clone(model));
        let put_all = async move {
            while newest.changed().await.is_ok() {
                let snapshot = newest.borrow_and_update().clone();
                if let Some(snapshot) = snapshot {
                    put(&task, &order, &model, snapshot).await;
                }
            }
        };
        (Self(tokio::spawn(put_all.in_current_span())), inbox)
    }
}

impl Drop for Previewer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Without it there is a preview less, so a failure is no reason to stop.
async fn put(task: &Task, order: &Order, model: &BaseModel, snapshot: Snapshot) {
    let step = snapshot.step;
    match try_put(task, order, model, snapshot).await {
        Ok(()) => info!(step, "vectors put for a preview"),
        Err(error) => warn!(step, error, "vectors not put for a preview, training goes on"),
    }
}

async fn try_put(task: &Task, order: &Order, model: &BaseModel, snapshot: Snapshot) -> Result<(), String> {
    if let Some(stop) = task.stop().requested().filter(|stop| stop.is_final()) {
        return Err(format!("the task was stopped: {stop:?}"));
    }
    let Snapshot { rows, step, loss } = snapshot;
    let bytes = order.embedding(model, rows, step, loss).to_bytes().map_err(|error| error.to_string())?;
    let embedding = task.bucket().put(&snapshot_name(step), bytes).await.map_err(|error| error.to_string())?;
    task.preview(Reported { embedding, step }.into());
    Ok(())
}
