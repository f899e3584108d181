//! The front desk: what people call.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use likeness_proto::v1::avatars_server::Avatars;
use likeness_proto::v1::{self, ForgetReceipt, Job, Subject};
use likeness_proto::{ErrorCode, JobId, Refusal, SubjectName, Submission};
use likeness_telemetry::trace::Parent;
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument, Span};

use super::{Shared, download, upload, watch};
use crate::access::{actor, tenant};
use crate::store::{Cause, Store};
use crate::sweep;

/// Serves people.
#[derive(Debug)]
pub(crate) struct FrontDesk<S>(pub(crate) Arc<Shared<S>>);

type Answer<T> = Result<Response<T>, Status>;
type Flow<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Jobs that `ListJobs` answers when the request names no number.
const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

#[tonic::async_trait]
impl<S: Store> Avatars for FrontDesk<S> {
    type WatchJobStream = Flow<Job>;
    type DownloadStream = Flow<v1::DownloadChunk>;

    async fn put_subject(&self, request: Request<Streaming<v1::PutSubjectRequest>>) -> Answer<v1::PutSubjectResponse> {
        let (tenant, by) = (tenant(&request)?, actor(&request)?);
        Ok(Response::new(upload::receive(Arc::clone(&self.0), tenant, by, request.into_inner()).await?))
    }

    async fn list_subjects(&self, request: Request<v1::ListSubjectsRequest>) -> Answer<v1::ListSubjectsResponse> {
        let subjects = self.0.store.subjects(&tenant(&request)?).await.map_err(Refusal::from)?;
        Ok(Response::new(v1::ListSubjectsResponse { subjects }))
    }

    async fn get_subject(&self, request: Request<v1::GetSubjectRequest>) -> Answer<Subject> {
        let name = subject(&request.get_ref().subject)?;
        Ok(Response::new(self.0.store.subject(&tenant(&request)?, &name).await.map_err(Refusal::from)?))
    }

    async fn forget_subject(&self, request: Request<v1::ForgetSubjectRequest>) -> Answer<ForgetReceipt> {
        let (tenant, name) = (tenant(&request)?, subject(&request.get_ref().subject)?);
        let cause = Cause::Asked(actor(&request)?);
        let shared = Arc::clone(&self.0);
        // In a task of its own: once begun it goes on, whether or not somebody waits for the receipt.
        let forgetting =
            async move { sweep::forget(&shared.store, &shared.bucket, &tenant, &name, &cause).await }.in_current_span();
        let forgetting = tokio::spawn(forgetting);
        Ok(Response::new(forgetting.await.map_err(|error| Refusal::internal(error.to_string()))??))
    }

    async fn submit_job(&self, request: Request<v1::SubmitJobRequest>) -> Answer<Job> {
        let (tenant, by) = (tenant(&request)?, actor(&request)?);
        let traceparent = request.extensions().get::<Parent>().map(ToString::to_string);
        let (mut submission, digest) = submission(request.into_inner())?;
        submission.traceparent = traceparent;
        let job = self.0.store.submit(&tenant, &submission, digest, &by).await.map_err(Refusal::from)?;
        Span::current().record("likeness.job.id", &job.id);
        Ok(Response::new(job))
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Answer<Job> {
        let job = job(&request.get_ref().job_id)?;
        Ok(Response::new(self.0.store.job(&tenant(&request)?, job).await.map_err(Refusal::from)?))
    }

    async fn list_jobs(&self, request: Request<v1::ListJobsRequest>) -> Answer<v1::ListJobsResponse> {
        let limit = limit(request.get_ref().limit)?;
        let jobs = self.0.store.jobs(&tenant(&request)?, limit).await.map_err(Refusal::from)?;
        Ok(Response::new(v1::ListJobsResponse { jobs }))
    }

    async fn cancel_job(&self, request: Request<v1::CancelJobRequest>) -> Answer<Job> {
        let (job, by) = (job(&request.get_ref().job_id)?, actor(&request)?);
        Ok(Response::new(self.0.store.cancel(&tenant(&request)?, job, &by).await.map_err(Refusal::from)?))
    }

    async fn watch_job(&self, request: Request<v1::WatchJobRequest>) -> Answer<Self::WatchJobStream> {
        let (tenant, job) = (tenant(&request)?, job(&request.get_ref().job_id)?);
        Ok(Response::new(Box::pin(watch::watch(Arc::clone(&self.0), tenant, job).await?)))
    }

    async fn get_losses(&self, request: Request<v1::GetLossesRequest>) -> Answer<v1::LossCurve> {
        let (job, name) = (job(&request.get_ref().job_id)?, subject(&request.get_ref().subject)?);
        let curve = self.0.store.losses(&tenant(&request)?, job, &name).await;
        Ok(Response::new(curve.map_err(Refusal::from)?))
    }

    async fn download(&self, request: Request<v1::DownloadRequest>) -> Answer<Self::DownloadStream> {
        let (tenant, by) = (tenant(&request)?, actor(&request)?);
        Ok(Response::new(Box::pin(download::download(&self.0, &tenant, &request.get_ref().key, &by).await?)))
    }

    async fn get_download_link(&self, request: Request<v1::DownloadRequest>) -> Answer<v1::DownloadLink> {
        let (tenant, by) = (tenant(&request)?, actor(&request)?);
        Ok(Response::new(download::link(&self.0, &tenant, &request.get_ref().key, &by).await?))
    }
}

fn subject(name: &str) -> Result<SubjectName, Refusal> {
    Ok(name.parse::<SubjectName>()?)
}

/// What is no job id names no job.
fn job(id: &str) -> Result<JobId, Refusal> {
    let unknown = |error| Refusal::new(ErrorCode::UnknownJob, format!("{error}; `list` shows the jobs there are"));
    id.parse::<JobId>().map_err(unknown)
}

fn limit(asked: u32) -> Result<u32, Refusal> {
    match asked {
        0 => Ok(DEFAULT_LIMIT),
        1..=MAX_LIMIT => Ok(asked),
        _more => {
            Err(Refusal::invalid(format!("limit is {asked}; accepted are 1 to {MAX_LIMIT}, or 0 for {DEFAULT_LIMIT}")))
        }
    }
}

/// The request decoded, and the digest that tells a repeated request from another one.
fn submission(mut wire: v1::SubmitJobRequest) -> Result<(Submission, [u8; 32]), Refusal> {
    let key = std::mem::take(&mut wire.idempotency_key);
    let digest = Sha256::digest(wire.encode_to_vec()).into();
    wire.idempotency_key = key;
    Ok((wire.try_into()?, digest))
}
