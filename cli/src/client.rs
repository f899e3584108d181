//! The client: calls that survive a server that goes away and comes back.

mod admin;
mod connect;
mod download;
mod links;
mod retry;
mod upload;
mod watch;

pub use connect::Target;
pub use download::download;
pub use upload::Upload;
pub use watch::{ended, verdict, watch};

use crate::exit::Failure;
use crate::settings::Settings;
use crate::telemetry::Console;
use connect::Stub;
use likeness_proto::v1;
use links::Links;
use retry::{Fault, Patience};
use std::time::Duration;

/// Calls a server as one tenant. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    target: Target,
    budget: Duration,
    console: Console,
    links: Links,
}

impl Client {
    /// Calls `target`, and goes on trying for `budget` while it does not answer.
    #[must_use]
    pub fn new(target: Target, budget: Duration, console: Console) -> Self {
        Self { target, budget, console, links: Links::default() }
    }

    /// The client that the settings describe.
    ///
    /// # Errors
    /// See [`Target::from_settings`].
    pub fn from_settings(settings: &Settings, console: &Console) -> Result<Self, Failure> {
        Ok(Self::new(Target::from_settings(settings)?, settings.retry(), console.clone()))
    }

    /// Stores a subject's photos.
    ///
    /// # Errors
    /// What the server refuses, photos that cannot be read, or a server that does not answer; so all calls.
    pub async fn put_subject(&self, upload: &Upload) -> Result<v1::PutSubjectResponse, Failure> {
        self.call(async |stub| upload.send(stub).await).await
    }

    /// The subjects, by name.
    ///
    /// # Errors
    /// As [`Client::put_subject`].
    pub async fn subjects(&self) -> Result<Vec<v1::Subject>, Failure> {
        let ask = v1::ListSubjectsRequest {};
        self.call(async |stub| Ok(stub.list_subjects(ask).await?.into_inner().subjects)).await
    }

    /// One subject.
    ///
    /// # Errors
    /// As [`Client::put_subject`].
    pub async fn subject(&self, name: &str) -> Result<v1::Subject, Failure> {
        let ask = v1::GetSubjectRequest { subject: name.to_owned() };
        self.call(async |stub| Ok(stub.get_subject(ask.clone()).await?.into_inner())).await
    }

    /// Erases all that there is of a subject.
    ///
    /// # Errors
    /// As [`Client::put_subject`].
    pub async fn forget(&self, name: &str) -> Result<v1::ForgetReceipt, Failure> {
        let ask = v1::ForgetSubjectRequest { subject: name.to_owned() };
        self.call(async |stub| Ok(stub.forget_subject(ask.clone()).await?.into_inner())).await
    }

    /// Asks for a job; repeated under its idempotency key, it is accepted once.
    ///
    /// # Errors
    /// As [`Client::put_subject`].
    pub async fn submit(&self, request: &v1::SubmitJobRequest) -> Result<v1::Job, Failure> {
        self.call(async |stub| Ok(stub.submit_job(request.clone()).await?.into_inner())).await
    }

    /// One job as it stands.
    ///
    /// # Errors
    /// As [`Client::put_subject`].
    pub async fn job(&self, id: &str) -> Result<v1::Job, Failure> {
        let ask = v1::GetJobRequest { job_id: id.to_owned() };
        self.call(async |stub| Ok(stub.get_job(ask.clone()).await?.into_inner())).await
    }

    /// The newest jobs.
    ///
    /// # Errors
    /// As [`Client::put_subject`].
    pub async fn jobs(&self, limit: u32) -> Result<Vec<v1::Job>, Failure> {
        let ask = v1::ListJobsRequest { limit };
        self.call(async |stub| Ok(stub.list_jobs(ask).await?.into_inner().jobs)).await
    }

    /// Stops a job.
    ///
    /// # Errors
    /// As [`Client::put_subject`].
    pub async fn cancel(&self, id: &str) -> Result<v1::Job, Failure> {
        let ask = v1::CancelJobRequest { job_id: id.to_owned() };
        self.call(async |stub| Ok(stub.cancel_job(ask.clone()).await?.into_inner())).await
    }

    /// The loss curve of one subject of a job.
    ///
    /// # Errors
    /// As [`Client::put_subject`].
    pub async fn losses(&self, job: &str, subject: &str) -> Result<v1::LossCurve, Failure> {
        let ask = v1::GetLossesRequest { job_id: job.to_owned(), subject: subject.to_owned() };
        self.call(async |stub| Ok(stub.get_losses(ask.clone()).await?.into_inner())).await
    }

    /// Does `attempt` until it succeeds, is refused, or the server has not answered for the whole budget.
    async fn call<T>(&self, attempt: impl AsyncFn(&mut Stub) -> Result<T, Fault>) -> Result<T, Failure> {
        let mut patience = Patience::new(self.budget, &self.console);
        loop {
            let fault = match self.target.connect() {
                Ok(mut stub) => match attempt(&mut stub).await {
                    Ok(answer) => return Ok(answer),
                    Err(fault) => fault,
                },
                Err(failure) => Fault::Local(failure),
            };
            patience.after(fault, &self.target).await?;
        }
    }
}
