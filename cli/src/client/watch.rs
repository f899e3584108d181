//! Follows a job to its end, over restarts of the server.

use super::Client;
use super::retry::{Fault, Patience};
use crate::exit::{Exit, Failure};
use likeness_proto::v1::{self, JobState};
use tonic::Status;

/// Follows a job: `see` is shown every change, last the end.
///
/// # Errors
/// What the server refuses, what `see` fails with, or a server that has not answered for the whole budget.
pub async fn watch(
    client: &Client,
    id: &str,
    mut see: impl FnMut(&v1::Job) -> Result<(), Failure>,
) -> Result<v1::Job, Failure> {
    let mut patience = Patience::new(client.budget, &client.console);
    loop {
        let fault = match follow(client, id, &mut patience, &mut see).await {
            Ok(job) => return Ok(job),
            Err(fault) => fault,
        };
        patience.after(fault, &client.target).await?;
    }
}

async fn follow(
    client: &Client,
    id: &str,
    patience: &mut Patience<'_>,
    see: &mut impl FnMut(&v1::Job) -> Result<(), Failure>,
) -> Result<v1::Job, Fault> {
    let ask = v1::WatchJobRequest { job_id: id.to_owned() };
    let mut stream = client.target.connect()?.watch_job(ask).await?.into_inner();
    while let Some(job) = stream.message().await? {
        patience.renew();
        see(&job)?;
        if ended(&job) {
            return Ok(job);
        }
    }
    // A server that stops ends its streams in order; the job goes on when it is back.
    Err(Status::unavailable("the server ended the stream before the job had ended").into())
}

/// Whether the job has ended.
#[must_use]
pub fn ended(job: &v1::Job) -> bool {
    match job.state() {
        JobState::Unspecified | JobState::Queued | JobState::Running => false,
        JobState::Succeeded | JobState::PartlyFailed | JobState::Failed | JobState::Cancelled => true,
    }
}

/// What the end of a job means for the command that waited for it.
///
/// # Errors
/// [`Exit::JobFailed`], [`Exit::JobPartlyFailed`] or [`Exit::JobCancelled`], with the first subject's reason.
pub fn verdict(job: &v1::Job) -> Result<(), Failure> {
    let (exit, what) = match job.state() {
        JobState::Unspecified | JobState::Queued | JobState::Running | JobState::Succeeded => return Ok(()),
        JobState::PartlyFailed => (Exit::JobPartlyFailed, "partly failed"),
        JobState::Failed => (Exit::JobFailed, "failed"),
        JobState::Cancelled => (Exit::JobCancelled, "was cancelled"),
    };
    let reason = job.subjects.iter().find_map(|subject| {
        subject.error.as_ref().map(|error| format!(": subject {}: {}", subject.subject, error.message))
    });
    Err(Failure::new(exit, format!("job {} {what}{}", job.id, reason.unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(state: JobState, error: Option<&str>) -> v1::Job {
        let error = error.map(|message| v1::ErrorDetail { message: message.to_owned(), ..Default::default() });
        let subject = v1::SubjectProgress { subject: "ada".to_owned(), error, ..Default::default() };
        v1::Job { id: "j".to_owned(), state: state.into(), subjects: vec![subject], ..Default::default() }
    }

    #[test]
    fn each_unhappy_end_has_its_own_exit() {
        assert!(verdict(&job(JobState::Succeeded, None)).is_ok());
        for (state, exit) in [
            (JobState::Failed, Exit::JobFailed),
            (JobState::PartlyFailed, Exit::JobPartlyFailed),
            (JobState::Cancelled, Exit::JobCancelled),
        ] {
            assert!(ended(&job(state, None)));
            assert_eq!(verdict(&job(state, None)).unwrap_err().exit, exit);
        }
    }

    #[test]
    fn a_failed_job_says_which_subject_and_why() {
        let failure = verdict(&job(JobState::Failed, Some("the loss became infinite"))).unwrap_err();
        assert_eq!(failure.message, "job j failed: subject ada: the loss became infinite");
    }
}
