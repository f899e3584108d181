//! How work that does not succeed ends.

use std::error::Error;

use likeness_proto::ErrorCode;
use likeness_worker::{Task, WorkError};

/// Another try would end the same.
pub(crate) fn refused(code: ErrorCode, message: String) -> WorkError {
    WorkError::Failed { code, message, retry: false }
}

/// A fault of this node; another try may help.
pub(crate) fn failed(error: impl Error) -> WorkError {
    WorkError::Failed { code: ErrorCode::Internal, message: error.to_string(), retry: true }
}

/// Runs what keeps a core busy away from the runtime's threads, unless the task is to stop.
pub(crate) async fn off_thread<T: Send + 'static>(
    task: &Task,
    work: impl FnOnce() -> Result<T, WorkError> + Send + 'static,
) -> Result<T, WorkError> {
    if task.stop().requested().is_some() {
        return Err(WorkError::Stopped);
    }
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}
