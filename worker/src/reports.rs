//! The last word about an attempt: completed, failed or given back. Said again until it is heard or the lease has ended.

use likeness_proto::{ErrorCode, LeaseId, Refusal, v1};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    Done,
    client::{CallError, call},
    register::{CALL_LIMIT, Link},
};

/// The last word about an attempt.
#[derive(Clone, Debug)]
pub(crate) enum Report {
    /// It is done.
    Complete(Box<Done>),
    /// It failed.
    Fail { error: Refusal, retry: bool },
    /// It is given back, unfinished.
    Release,
}

impl Report {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Complete(_) => "complete",
            Self::Fail { .. } => "fail",
            Self::Release => "release",
        }
    }
}

/// Tells the coordinator how an attempt ended; gives up when the lease ends. A result that is refused makes the attempt
/// a failed one.
pub(crate) async fn tell(link: &Link, lease: LeaseId, report: Report, until: Instant) {
    let Err(refusal) = insist(link, lease, &report, until).await else { return };
    if !matches!(report, Report::Complete(_)) {
        warn!(report = report.name(), error = %refusal, "report refused");
        return;
    }
    warn!(error = %refusal, "result refused");
    let error = Refusal::new(refusal.code, format!("the result was refused: {}", refusal.message));
    if let Err(error) = insist(link, lease, &Report::Fail { error, retry: true }, until).await {
        warn!(%error, "failure refused");
    }
}

/// Says it until it is heard, refused, or too late.
async fn insist(link: &Link, lease: LeaseId, report: &Report, until: Instant) -> Result<(), Refusal> {
    let name = report.name();
    let mut waits = link.waits();
    let outcome = loop {
        let error = match tokio::time::timeout_at(until, send(link, lease, report)).await {
            Ok(Ok(())) => break "heard",
            Err(_elapsed) => break "lease ended before it was heard",
            Ok(Err(CallError::Refused(refusal))) => match refusal.code {
                ErrorCode::StaleFence => break "stale fence",
                ErrorCode::UnknownWorker => refusal.into(),
                _other => return Err(refusal),
            },
            Ok(Err(error @ CallError::Unanswered(_))) => error,
        };
        let wait = waits.next();
        warn!(report = name, %error, ?wait, "report not heard, trying again");
        link.heed(&error).await;
        tokio::time::sleep_until(until.min(Instant::now() + wait)).await;
    };
    info!(report = name, outcome, "attempt ended");
    Ok(())
}

async fn send(link: &Link, lease: LeaseId, report: &Report) -> Result<(), CallError> {
    let (incarnation, task_id, fence) = (link.incarnation(), lease.task.to_string(), lease.fence.get());
    let mut client = link.client();
    match report.clone() {
        Report::Complete(done) => {
            let Done { result, warnings } = *done;
            let request = v1::CompleteRequest { incarnation, task_id, fence, result: Some(result), warnings };
            call(CALL_LIMIT, client.complete(request)).await.map(|v1::CompleteResponse {}| ())
        }
        Report::Fail { error, retry } => {
            let request = v1::FailRequest { incarnation, task_id, fence, error: Some(error.into()), retry };
            call(CALL_LIMIT, client.fail(request)).await.map(|v1::FailResponse {}| ())
        }
        Report::Release => {
            let request = v1::ReleaseRequest { incarnation, task_id, fence };
            call(CALL_LIMIT, client.release(request)).await.map(|v1::ReleaseResponse {}| ())
        }
    }
}
