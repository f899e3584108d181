//! Puts checkpoints into the bucket and has them recorded, beside the loop that makes them.

use likeness_proto::{Checkpoint as Recorded, checkpoint_name};
use likeness_telemetry::child;
use likeness_worker::Task;
use tokio::{sync::watch, task::JoinHandle};
use tracing::{Instrument, info, warn};

use crate::Checkpoint;

/// The end that the training loop leaves checkpoints in; never blocks. A newer one takes the place of one not yet saved.
pub(crate) type Inbox = watch::Sender<Option<Checkpoint>>;

/// Saves the newest checkpoint left in its inbox, until that is dropped.
pub(crate) struct Saver {
    inbox: Inbox,
    saving: JoinHandle<()>,
}

impl Saver {
    pub(crate) fn start(task: &Task) -> Self {
        let (inbox, mut newest) = watch::channel(None::<Checkpoint>);
        let task = task.clone();
        let save_all = async move {
            while newest.changed().await.is_ok() {
                let checkpoint = newest.borrow_and_update().clone();
                if let Some(checkpoint) = checkpoint {
                    save(&task, &checkpoint).await;
                }
            }
        };
        Self { inbox, saving: tokio::spawn(save_all.in_current_span()) }
    }

    pub(crate) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// Waits until everything left in the inbox is saved.
    pub(crate) async fn finish(self) {
        drop(self.inbox);
        if let Err(error) = self.saving.await {
            warn!(%error, "saving of checkpoints ended unexpectedly");
        }
    }
}

/// Saves one checkpoint and waits until it is recorded. Without it the run only takes longer after a loss, so a failure is no
/// reason to stop.
pub(crate) async fn save(task: &Task, checkpoint: &Checkpoint) {
    let span = child!("checkpoint", likeness.step = checkpoint.step);
    match try_save(task, checkpoint).instrument(span).await {
        Ok(()) => info!(step = checkpoint.step, "checkpoint committed"),
        Err(error) => warn!(step = checkpoint.step, error, "checkpoint not saved, training goes on"),
    }
}

async fn try_save(task: &Task, checkpoint: &Checkpoint) -> Result<(), String> {
    if let Some(stop) = task.stop().requested().filter(|stop| stop.is_final()) {
        return Err(format!("the task was stopped: {stop:?}"));
    }
    let bytes = checkpoint.to_bytes().map_err(|error| error.to_string())?;
    let object =
        task.bucket().put(&checkpoint_name(checkpoint.step), bytes).await.map_err(|error| error.to_string())?;
    let recorded = Recorded { object, step: checkpoint.step };
    task.commit_checkpoint(recorded.into()).await.map_err(|stop| format!("the task was stopped: {stop:?}"))
}
