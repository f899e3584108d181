//! How a running task is told to stop.

use tokio::sync::watch;

/// Why a task should stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The node shuts down: commit a checkpoint, then return. The lease still holds.
    Draining,
    /// The lease is lost, somebody else may do the task: write nothing more.
    Lost,
    /// The job or subject was cancelled or erased: write nothing more.
    Cancelled,
}

impl Stop {
    /// Whether nothing that the task still does counts.
    pub fn is_final(self) -> bool {
        match self {
            Self::Draining => false,
            Self::Lost | Self::Cancelled => true,
        }
    }
}

/// Tells a task whether it should stop. Cheap to clone and to poll, from any thread.
#[derive(Clone, Debug)]
pub struct StopSignal(watch::Receiver<Option<Stop>>);

impl StopSignal {
    /// Why to stop, if so. A drain may turn into a loss, never back.
    pub fn requested(&self) -> Option<Stop> {
        *self.0.borrow()
    }

    /// Waits until the task should stop.
    pub async fn wait(&self) -> Stop {
        self.wait_for(|_any| true).await
    }

    /// Waits until nothing that the task does counts any more.
    pub(crate) async fn wait_final(&self) -> Stop {
        self.wait_for(Stop::is_final).await
    }

    async fn wait_for(&self, enough: impl Fn(Stop) -> bool) -> Stop {
        let mut receiver = self.0.clone();
        let found = receiver.wait_for(|stop| stop.is_some_and(&enough)).await;
        // A node that is gone renews nothing, so that the lease is lost.
        found.ok().and_then(|stop| *stop).unwrap_or(Stop::Lost)
    }
}

/// The other end of a [`StopSignal`].
#[derive(Debug)]
pub(crate) struct Stopper(watch::Sender<Option<Stop>>);

impl Stopper {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    pub(crate) fn signal(&self) -> StopSignal {
        StopSignal(self.0.subscribe())
    }

    pub(crate) fn requested(&self) -> Option<Stop> {
        *self.0.borrow()
    }

    /// Asks to stop. The first final reason stays.
    pub(crate) fn stop(&self, why: Stop) {
        self.0.send_if_modified(|stop| {
            let changes = match *stop {
                None => true,
                Some(before) => why.is_final() && !before.is_final(),
            };
            if changes {
                *stop = Some(why);
            }
            changes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_turns_into_a_loss_and_never_back() {
        let stopper = Stopper::new();
        let signal = stopper.signal();
        assert_eq!(signal.requested(), None);
        stopper.stop(Stop::Draining);
        assert_eq!(signal.wait().await, Stop::Draining);
        stopper.stop(Stop::Cancelled);
        stopper.stop(Stop::Lost);
        stopper.stop(Stop::Draining);
        assert_eq!(signal.wait_final().await, Stop::Cancelled);
    }

    #[tokio::test]
    async fn without_a_node_the_lease_is_lost() {
        let signal = Stopper::new().signal();
        assert_eq!(signal.wait().await, Stop::Lost);
    }
}
