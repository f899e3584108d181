//! The workers of the coordinator under test, and how long everybody's calls took.

use super::failed;
use super::people::Desk;
use crate::exit::Failure;
use likeness_proto::v1::workers_client::WorkersClient;
use likeness_proto::{Bearer, EMBEDDING_NAME, Incarnation, ObjectRef, Prefix, TaskKind, v1};
use tokio::time::{Instant, sleep_until};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

pub(super) type Workers = WorkersClient<InterceptedService<Channel, Bearer>>;

/// What all jobs are drawn with.
pub(super) const MODEL: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// How long calls took, in milliseconds, and how many failed.
#[derive(Debug, Default)]
pub(super) struct Spans {
    pub(super) submits: Vec<f64>,
    pub(super) claims: Vec<f64>,
    pub(super) renews: Vec<f64>,
    pub(super) completes: Vec<f64>,
    pub(super) errors: usize,
}

impl Spans {
    pub(super) fn millis(since: Instant) -> f64 {
        since.elapsed().as_secs_f64() * 1e3
    }

    /// The value that this share of the values is not above; 0 when there are none.
    pub(super) fn at(values: &mut [f64], share: f64) -> f64 {
        values.sort_by(f64::total_cmp);
        let index = ((values.len() as f64 * share).ceil() as usize).saturating_sub(1);
        values.get(index).copied().unwrap_or(0.0)
    }

    pub(super) fn add(&mut self, other: Self) {
        self.submits.extend(other.submits);
        self.claims.extend(other.claims);
        self.renews.extend(other.renews);
        self.completes.extend(other.completes);
        self.errors += other.errors;
    }

    pub(super) fn failed(&mut self, call: &'static str, status: &tonic::Status) {
        tracing::warn!(call, %status, "call failed");
        self.errors += 1;
    }
}

impl Desk {
    /// All workers, registered.
    pub(super) async fn hire(&self) -> Result<Vec<Incarnation>, Failure> {
        let mut hired = Vec::with_capacity(self.workers);
        for number in 0..self.workers {
            let incarnation = Incarnation::new();
            let registered = self.register(&format!("bench-{number}"), incarnation).await;
            registered.map_err(|status| failed("register a worker", &status))?;
            hired.push(incarnation);
        }
        Ok(hired)
    }

    pub(super) async fn worker(self, number: usize, incarnation: Incarnation, until: Instant) -> Spans {
        let (mut spans, mut fleet) = (Spans::default(), self.fleet());
        // Those with a pace do not all begin at the same time.
        let pace = self.pace.unwrap_or_default();
        let mut next = Instant::now() + pace * number as u32 / self.workers as u32;
        while Instant::now() < until {
            if !pace.is_zero() {
                sleep_until(next).await;
                next += pace;
            }
            if let Err(status) = self.cycle(&mut fleet, incarnation, &mut spans).await {
                spans.failed("a worker's", &status);
            }
        }
        spans
    }

    /// One training from its lease to its end.
    async fn cycle(&self, fleet: &mut Workers, worker: Incarnation, spans: &mut Spans) -> Result<(), tonic::Status> {
        let (incarnation, kinds) = (worker.to_string(), vec![TaskKind::Train.encode()]);
        let begun = Instant::now();
        let ask =
            v1::LeaseRequest { incarnation: incarnation.clone(), kinds, capacity: 1, wait_ms: 500, previews: false };
        let Some(grant) = fleet.lease(ask).await?.into_inner().grants.pop() else { return Ok(()) };
        spans.claims.push(Spans::millis(begun));

        let begun = Instant::now();
        let renewal = v1::Renewal { task_id: grant.task_id.clone(), fence: grant.fence, progress: None };
        fleet.renew(v1::RenewRequest { incarnation: incarnation.clone(), renewals: vec![renewal] }).await?;
        spans.renews.push(Spans::millis(begun));

        let embedding = Some(self.write(&grant).await?.into());
        let outcome = Some(v1::TrainOutcome { steps: 1, stop_reason: 1, ..Default::default() });
        let result = v1::complete_request::Result::Train(v1::TrainResult { embedding, outcome, last: None });
        let (task_id, fence, warnings) = (grant.task_id, grant.fence, Vec::new());
        let begun = Instant::now();
        fleet.complete(v1::CompleteRequest { incarnation, task_id, fence, result: Some(result), warnings }).await?;
        spans.completes.push(Spans::millis(begun));
        Ok(())
    }

    /// Puts what a training would into the bucket's folder.
    async fn write(&self, grant: &v1::Grant) -> Result<ObjectRef, tonic::Status> {
        let fault = |error: std::io::Error| tonic::Status::internal(error.to_string());
        let prefix: Prefix = grant.output_prefix.parse().map_err(likeness_proto::Refusal::from)?;
        let key = prefix.key(EMBEDDING_NAME).map_err(likeness_proto::Refusal::from)?;
        let path = self.bucket.join(key.as_str());
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder).await.map_err(fault)?;
        }
        tokio::fs::write(path, b"vectors").await.map_err(fault)?;
        Ok(ObjectRef::of(key, b"vectors"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_values_is_not_above_its_quantile() {
        let mut values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((Spans::at(&mut values, 0.5), Spans::at(&mut values, 0.99)), (50.0, 99.0));
        assert_eq!((Spans::at(&mut [7.0], 0.99), Spans::at(&mut [], 0.5)), (7.0, 0.0));
    }
}
