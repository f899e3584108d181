//! What a node can do, and how an attempt ends.

use futures::future::BoxFuture;
use likeness_proto::{ErrorCode, Grant, Refusal, TaskKind, v1};

use crate::Task;

/// What a node can do: one implementation in the trainer, one in the sampler.
pub trait Work: Send + Sync + 'static {
    /// Kinds of tasks it can do; at least one.
    fn kinds(&self) -> &[TaskKind];

    /// Does what was granted. Called for as many grants at once as the node has slots; a slot is free again only when
    /// this has returned. Looks at `task.stop()` often: after it has fired, an attempt ends with
    /// [`WorkError::Stopped`], and for [`Stop::Draining`](crate::Stop::Draining) commits a checkpoint first.
    ///
    /// Boxed, so that the crate that does the work compiles it, once, and not every crate that starts a node.
    fn run(&self, grant: Grant, task: Task) -> BoxFuture<'_, Result<Done, WorkError>>;
}

/// A finished attempt: what to commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// What came out. Reports that were not sent yet go along with a training's.
    pub result: v1::complete_request::Result,
    /// What the user should know.
    pub warnings: Vec<v1::Warning>,
}

/// How an attempt ends without a result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WorkError {
    /// The stop signal fired. A drain gives the task back; a lost or cancelled one is dropped without a word.
    #[error("stopped on request")]
    Stopped,
    /// It cannot be done, or not this time.
    #[error("{message}")]
    Failed {
        /// What kind of failure it is.
        code: ErrorCode,
        /// Lower case, without a full stop; names the value, what would be accepted and what to do.
        message: String,
        /// Whether another try may help.
        retry: bool,
    },
}

impl From<Refusal> for WorkError {
    /// What is refused once is refused again.
    fn from(Refusal { code, message, .. }: Refusal) -> Self {
        Self::Failed { code, message, retry: false }
    }
}
