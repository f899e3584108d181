//! The fleet's desk: what trainers and samplers call.

use std::sync::Arc;
use std::time::Duration;

use likeness_proto::v1;
use likeness_proto::v1::workers_server::Workers;
use likeness_proto::{
    Completion, Failure, LeaseAsk, LeaseId, ObjectRef, Progress, Refusal, Registration, Release, Renewal, Renewals,
    TaskResult,
};
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::access::{NamedWorker, worker};
use crate::store::Store;

/// Serves workers.
#[derive(Debug)]
pub(crate) struct FleetDesk<S>(pub(crate) Arc<Shared<S>>);

type Answer<T> = Result<Response<T>, Status>;

/// A worker renews this many times in the life of a lease.
const RENEWALS: u32 = 3;
/// Renewals carry progress; whoever watches sees it move.
const LIVE: Duration = Duration::from_secs(1);

#[tonic::async_trait]
impl<S: Store> Workers for FleetDesk<S> {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Answer<v1::RegisterResponse> {
        let named = worker(&request);
        let mut registration = Registration::try_from(request.into_inner())?;
        if let Some(NamedWorker { name, trade }) = named {
            trade.check(&registration.kinds)?;
            registration.worker = name;
        }
        self.0.store.register(&registration).await.map_err(Refusal::from)?;
        tracing::info!(worker = registration.worker, incarnation = %registration.incarnation, "worker registered");
        Ok(Response::new(terms(self.0.store.policy().lease)))
    }

    async fn lease(&self, request: Request<v1::LeaseRequest>) -> Answer<v1::LeaseResponse> {
        let named = worker(&request);
        let ask = LeaseAsk::try_from(request.into_inner())?;
        named.map_or(Ok(()), |worker| worker.trade.check(&ask.kinds))?;
        Ok(Response::new(v1::LeaseResponse { grants: self.0.wait_for_tasks(&ask).await? }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Answer<v1::RenewResponse> {
        let renewals = Renewals::try_from(request.into_inner())?;
        Ok(Response::new(v1::RenewResponse { standings: self.0.renew(renewals).await? }))
    }

    async fn complete(&self, request: Request<v1::CompleteRequest>) -> Answer<v1::CompleteResponse> {
        let completion = Completion::try_from(request.into_inner())?;
        self.0.complete(&completion).await?;
        Ok(Response::new(v1::CompleteResponse {}))
    }

    async fn fail(&self, request: Request<v1::FailRequest>) -> Answer<v1::FailResponse> {
        let failure = Failure::try_from(request.into_inner())?;
        self.0.store.fail(&failure).await.map_err(Refusal::from)?;
        Ok(Response::new(v1::FailResponse {}))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Answer<v1::ReleaseResponse> {
        let release = Release::try_from(request.into_inner())?;
        self.0.store.release(&release).await.map_err(Refusal::from)?;
        Ok(Response::new(v1::ReleaseResponse {}))
    }
}

fn terms(lease: Duration) -> v1::RegisterResponse {
    let millis = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
    v1::RegisterResponse { lease_ms: millis(lease), renew_ms: millis((lease / RENEWALS).min(LIVE)).max(1) }
}

impl<S: Store> Shared<S> {
    /// Claims tasks; while there are none, waits for some, as long as the worker said.
    async fn wait_for_tasks(&self, ask: &LeaseAsk) -> Result<Vec<v1::Grant>, Refusal> {
        let deadline = Instant::now() + ask.wait;
        let mut ready = self.store.signals().ready();
        loop {
            ready.forget();
            let grants = self.store.claim(ask).await?;
            if !grants.is_empty() || self.shutdown.is_cancelled() {
                return Ok(grants);
            }
            let look = self.store.signals().poll().map_or(deadline, |poll| deadline.min(Instant::now() + poll));
            tokio::select! {
                biased;
                woken = timeout_at(look, ready.changed()) => if woken.is_err() && look == deadline { return Ok(Vec::new()) },
                () = self.shutdown.cancelled() => return Ok(Vec::new()),
            }
        }
    }

    /// Renews leases. One whose checkpoint is not in the bucket is not renewed; the others are, and then it is told.
    async fn renew(&self, renewals: Renewals) -> Result<Vec<v1::Standing>, Refusal> {
        let (mut sound, mut refusal) = (Vec::new(), None);
        for mut renewal in renewals.renewals {
            self.drop_bad_preview(&mut renewal).await;
            match self.check_checkpoint(&renewal).await {
                Ok(()) => sound.push(renewal),
                Err(error) => refusal = Some(error),
            }
        }
        let sound = Renewals { incarnation: renewals.incarnation, renewals: sound };
        let verdicts = self.store.renew(&sound).await?;
        let standing = |(renewal, verdict): (&Renewal, likeness_proto::Verdict)| v1::Standing {
            task_id: renewal.lease.task.to_string(),
            verdict: verdict.encode(),
        };
        match refusal {
            Some(refusal) => Err(refusal),
            None => Ok(sound.renewals.iter().zip(verdicts).map(standing).collect()),
        }
    }

    async fn check_checkpoint(&self, renewal: &Renewal) -> Result<(), Refusal> {
        match &renewal.progress {
            Some(Progress::Train(report)) => match &report.checkpoint {
                // A task that is unknown by now needs no check: its renewal is answered with a lost lease.
                Some(checkpoint) => match self.check(renewal.lease, [&checkpoint.object]).await {
                    Err(refusal) if refusal.code == likeness_proto::ErrorCode::StaleFence => Ok(()),
                    checked => checked,
                },
                None => Ok(()),
            },
            Some(Progress::Render { .. }) | None => Ok(()),
        }
    }

    /// Takes out what a preview is to be drawn with if it is not in the bucket as said. Training goes on without.
    async fn drop_bad_preview(&self, renewal: &mut Renewal) {
        let Some(Progress::Train(report)) = &mut renewal.progress else { return };
        let Some(snapshot) = &report.preview else { return };
        if let Err(error) = self.check(renewal.lease, [&snapshot.embedding]).await {
            tracing::warn!(task = %renewal.lease.task, step = snapshot.step, %error, "preview not queued");
            report.preview = None;
        }
    }

    async fn complete(&self, completion: &Completion) -> Result<(), Refusal> {
        let objects: Vec<&ObjectRef> = match &completion.result {
            TaskResult::Train { embedding, last, .. } => {
                let checkpoint = last.as_ref().and_then(|last| last.checkpoint.as_ref());
                checkpoint.map(|checkpoint| &checkpoint.object).into_iter().chain([embedding]).collect()
            }
            TaskResult::Render { avatars, .. } => avatars.iter().map(|avatar| &avatar.object).collect(),
            TaskResult::Assemble { contact_sheet } => vec![contact_sheet],
            TaskResult::Preview { picture } => vec![picture],
        };
        self.check(completion.lease, objects).await?;
        Ok(self.store.complete(completion).await?)
    }

    /// Refuses objects outside a lease's prefix, and those that the bucket does not hold as said.
    async fn check<'a>(&self, lease: LeaseId, objects: impl IntoIterator<Item = &'a ObjectRef>) -> Result<(), Refusal> {
        let prefix = self.store.outputs(lease).await?;
        for object in objects {
            if !prefix.contains(&object.key) {
                let message = format!("object {} does not lie under {prefix}, where this lease writes", object.key);
                return Err(Refusal::invalid(message));
            }
            self.bucket.check(object).await?;
        }
        Ok(())
    }
}
