//! One attempt from its grant to its last word.

use std::{any::Any, sync::Arc};

use likeness_proto::{ErrorCode, Grant, Refusal, v1};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, info, warn};

use crate::{
    Done, Stop, Task, Work, WorkError,
    held::Held,
    progress::Progress,
    register::Link,
    renewals::Renewals,
    reports::{Report, tell},
    spans,
};

/// Does what was granted and reports how it ended.
pub(crate) async fn attend(
    work: Arc<dyn Work>,
    grant: Grant,
    task: Task,
    held: Arc<Held>,
    link: Arc<Link>,
    renewals: Arc<Renewals>,
) {
    info!(attempt = grant.attempt, kind = %grant.work.kind(), "task begun");
    let ended = work_to_end(work, grant, task, &held).await;
    let untold = renewals.finish(&held).await;
    let report = last_word(ended, untold, held.stopper.requested());
    spans::ended(report.as_ref());
    match report {
        Some(report) => tell(&link, held.lease, report, held.until()).await,
        None => info!("task dropped"),
    }
}

/// Runs the work until it returns. A lease that lapses meanwhile is lost, whatever the coordinator thinks.
async fn work_to_end(
    work: Arc<dyn Work>,
    grant: Grant,
    task: Task,
    held: &Held,
) -> Result<Result<Done, WorkError>, JoinError> {
    let run = async move { work.run(grant, task).await };
    let mut run = AbortOnDropHandle::new(tokio::spawn(run.in_current_span()));
    tokio::select! {
        biased;
        ended = &mut run => return ended,
        () = held.lapsed() => {
            warn!("lease lapsed before it could be renewed");
            held.stopper.stop(Stop::Lost);
        }
    }
    run.await
}

/// What to tell of an attempt that ended so; nothing if nobody wants to hear it.
fn last_word(
    ended: Result<Result<Done, WorkError>, JoinError>,
    untold: Progress,
    stop: Option<Stop>,
) -> Option<Report> {
    if stop.is_some_and(Stop::is_final) {
        return None;
    }
    Some(match ended {
        Ok(Ok(done)) => Report::Complete(Box::new(with_last(done, untold))),
        Ok(Err(WorkError::Stopped)) if stop.is_some() => Report::Release,
        Ok(Err(WorkError::Stopped)) => failed(ErrorCode::Internal, "the work stopped without being asked to", true),
        Ok(Err(WorkError::Failed { code, message, retry })) => failed(code, &message, retry),
        Err(error) => failed(ErrorCode::Internal, &panicked(error), true),
    })
}

fn failed(code: ErrorCode, message: &str, retry: bool) -> Report {
    warn!(?code, error = message, retry, "task failed");
    Report::Fail { error: Refusal::new(code, message), retry }
}

/// The result, with the reports that no renewal has told yet.
fn with_last(done: Done, untold: Progress) -> Done {
    let result = match done.result {
        v1::complete_request::Result::Train(mut train) => {
            train.last = untold.into_last(train.last);
            v1::complete_request::Result::Train(train)
        }
        other => other,
    };
    Done { result, ..done }
}

fn panicked(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => format!("the work panicked: {}", panic_message(payload.as_ref())),
        Err(_cancelled) => "the work was aborted".to_owned(),
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
