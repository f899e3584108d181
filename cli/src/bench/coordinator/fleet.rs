//! Clients and workers of the coordinator under test.

use super::failed;
use super::process::Process;
use crate::args::BenchCoordinatorArgs;
use crate::exit::{Exit, Failure};
use likeness_proto::v1::avatars_client::AvatarsClient;
use likeness_proto::v1::put_subject_request::Part;
use likeness_proto::v1::workers_client::WorkersClient;
use likeness_proto::{Bearer, EMBEDDING_NAME, Incarnation, ObjectRef, PROTOCOL_VERSION, Prefix, Secret, TaskKind, v1};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

type People = AvatarsClient<InterceptedService<Channel, Bearer>>;
type Workers = WorkersClient<InterceptedService<Channel, Bearer>>;

/// Subjects that jobs are about; a job of the queue is about all of them.
const SUBJECTS: usize = 100;
/// Connections that workers share.
const CONNECTIONS: usize = 8;
/// Submissions at the same time while the queue is filled.
const FILLERS: usize = 4;
/// How long a client thinks between two jobs.
const THINK: Duration = Duration::from_millis(250);
const MAX_MESSAGE: usize = 64 << 20;
const MODEL: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

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
    /// The value that this share of the values is not above; 0 when there are none.
    pub(super) fn at(values: &mut [f64], share: f64) -> f64 {
        values.sort_by(f64::total_cmp);
        let index = ((values.len() as f64 * share).ceil() as usize).saturating_sub(1);
        values.get(index).copied().unwrap_or(0.0)
    }

    fn add(&mut self, other: Self) {
        self.submits.extend(other.submits);
        self.claims.extend(other.claims);
        self.renews.extend(other.renews);
        self.completes.extend(other.completes);
        self.errors += other.errors;
    }
}

/// Everybody who calls.
#[derive(Clone)]
pub(super) struct Desk {
    channels: Arc<Vec<Channel>>,
    token: Secret,
    bucket: PathBuf,
    workers: usize,
    clients: usize,
    /// Jobs accepted.
    jobs: Arc<Mutex<Vec<String>>>,
    next: Arc<AtomicUsize>,
}

impl Desk {
    /// Connects, registers the workers and puts the subjects.
    pub(super) async fn open(process: &Process, args: &BenchCoordinatorArgs) -> Result<Self, Failure> {
        let desk = Self {
            channels: Arc::new(channels(process)?),
            token: process.token()?,
            bucket: process.bucket(),
            workers: args.workers,
            clients: args.clients,
            jobs: Arc::default(),
            next: Arc::default(),
        };
        let listed = desk.people().list_jobs(v1::ListJobsRequest { limit: 1 }).await;
        if !listed.map_err(|status| failed("list jobs", &status))?.into_inner().jobs.is_empty() {
            return Err(Failure::new(Exit::Setting, "the store has jobs already; name an empty one to measure on"));
        }
        desk.register("bench", Incarnation::new()).await?;
        for number in 0..SUBJECTS {
            desk.put(&format!("subject-{number}")).await?;
        }
        Ok(desk)
    }

    /// The same callers on a coordinator that was started again.
    pub(super) fn reopened(&self, process: &Process) -> Self {
        Self { channels: Arc::new(channels(process).unwrap_or_default()), ..self.clone() }
    }

    fn channel(&self) -> Channel {
        self.channels[self.next.fetch_add(1, Ordering::Relaxed) % self.channels.len()].clone()
    }

    fn people(&self) -> People {
        AvatarsClient::with_interceptor(self.channel(), Bearer::new(&self.token)).max_decoding_message_size(MAX_MESSAGE)
    }

    fn fleet(&self) -> Workers {
        WorkersClient::with_interceptor(self.channel(), Bearer::new(&self.token))
    }

    async fn register(&self, name: &str, incarnation: Incarnation) -> Result<(), Failure> {
        let registration = v1::RegisterRequest {
            protocol_version: PROTOCOL_VERSION,
            worker: name.to_owned(),
            incarnation: incarnation.to_string(),
            kinds: vec![TaskKind::Train.encode()],
            models: vec![v1::BaseModel { digest: MODEL.into(), name: "none".into(), native_size: 64, factor: 8 }],
            software: "bench".into(),
        };
        let registered = self.fleet().register(registration).await;
        registered.map(drop).map_err(|status| failed("register a worker", &status))
    }

    async fn put(&self, subject: &str) -> Result<(), Failure> {
        let consent = v1::Consent {
            attested_by: "bench".into(),
            capacity: v1::Capacity::Self_.into(),
            statement: "a picture of nobody".into(),
        };
        let photo = blank().map_err(Failure::unexpected)?;
        let header =
            v1::PhotoHeader { file_name: "blank.png".into(), size: photo.len() as u64, caption: String::new() };
        let parts = [
            Part::Header(v1::SubjectHeader { subject: subject.to_owned(), consent: Some(consent) }),
            Part::Photo(header),
            Part::Chunk(photo),
        ];
        let parts = parts.map(|part| v1::PutSubjectRequest { part: Some(part) });
        let put = self.people().put_subject(tokio_stream::iter(parts)).await;
        put.map(drop).map_err(|status| failed("store a subject", &status))
    }

    async fn submit(&self, subjects: usize) -> Result<(), tonic::Status> {
        let subject = |number| v1::JobSubject { name: format!("subject-{number}"), init: "person".into() };
        let prompt = v1::Prompt { text: "{subject} at sea".into(), seeds: vec![1] };
        let request = v1::SubmitJobRequest {
            idempotency_key: uuid::Uuid::new_v4().to_string(),
            subjects: (0..subjects).map(subject).collect(),
            train: Some(v1::TrainSpec::default()),
            render: Some(v1::RenderSpec { prompts: vec![prompt], ..Default::default() }),
            ..Default::default()
        };
        let job = self.people().submit_job(request).await?.into_inner();
        self.jobs.lock().await.push(job.id);
        Ok(())
    }

    /// Queues this many trainings.
    pub(super) async fn fill(&self, queued: usize) -> Result<(), Failure> {
        let left = Arc::new(AtomicUsize::new(queued));
        let mut fillers = JoinSet::new();
        for _ in 0..FILLERS {
            let (desk, left) = (self.clone(), Arc::clone(&left));
            fillers.spawn(async move {
                let take = |left: usize| Some(left.saturating_sub(SUBJECTS)).filter(|_| left > 0);
                while let Ok(left) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                    desk.submit(left.min(SUBJECTS)).await?;
                }
                Ok::<(), tonic::Status>(())
            });
        }
        while let Some(filled) = fillers.join_next().await {
            filled.map_err(Failure::unexpected)?.map_err(|status| failed("accept a job", &status))?;
        }
        Ok(())
    }

    /// Works for `span`, all workers and clients at the same time.
    pub(super) async fn work(&self, span: Duration) -> Spans {
        let until = Instant::now() + span;
        let mut everybody = JoinSet::new();
        for number in 0..self.workers {
            everybody.spawn(self.clone().worker(number, until));
        }
        for _ in 0..self.clients {
            everybody.spawn(self.clone().client(until));
        }
        let mut all = Spans::default();
        while let Some(spans) = everybody.join_next().await {
            match spans {
                Ok(spans) => all.add(spans),
                Err(_panicked) => all.errors += 1,
            }
        }
        all
    }

    async fn client(self, until: Instant) -> Spans {
        let mut spans = Spans::default();
        while Instant::now() < until {
            let begun = Instant::now();
            match self.submit(1).await {
                Ok(()) => spans.submits.push(millis(begun)),
                Err(_) => spans.errors += 1,
            }
            sleep(THINK).await;
        }
        spans
    }

    async fn worker(self, number: usize, until: Instant) -> Spans {
        let (mut spans, incarnation, mut fleet) = (Spans::default(), Incarnation::new(), self.fleet());
        if self.register(&format!("bench-{number}"), incarnation).await.is_err() {
            spans.errors += 1;
            return spans;
        }
        while Instant::now() < until {
            if self.cycle(&mut fleet, incarnation, &mut spans).await.is_err() {
                spans.errors += 1;
            }
        }
        spans
    }

    /// One training from its lease to its end.
    async fn cycle(&self, fleet: &mut Workers, worker: Incarnation, spans: &mut Spans) -> Result<(), tonic::Status> {
        let (incarnation, kinds) = (worker.to_string(), vec![TaskKind::Train.encode()]);
        let begun = Instant::now();
        let ask = v1::LeaseRequest { incarnation: incarnation.clone(), kinds, capacity: 1, wait_ms: 500 };
        let Some(grant) = fleet.lease(ask).await?.into_inner().grants.pop() else { return Ok(()) };
        spans.claims.push(millis(begun));

        let begun = Instant::now();
        let renewal = v1::Renewal { task_id: grant.task_id.clone(), fence: grant.fence, progress: None };
        fleet.renew(v1::RenewRequest { incarnation: incarnation.clone(), renewals: vec![renewal] }).await?;
        spans.renews.push(millis(begun));

        let embedding = Some(self.write(&grant).await?.into());
        let outcome = Some(v1::TrainOutcome { steps: 1, stop_reason: 1, ..Default::default() });
        let result = v1::complete_request::Result::Train(v1::TrainResult { embedding, outcome, last: None });
        let (task_id, fence, warnings) = (grant.task_id, grant.fence, Vec::new());
        let begun = Instant::now();
        fleet.complete(v1::CompleteRequest { incarnation, task_id, fence, result: Some(result), warnings }).await?;
        spans.completes.push(millis(begun));
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

    /// Trainings whose end the coordinator knows of.
    pub(super) async fn completed(&self) -> Result<usize, Failure> {
        let mut completed = 0;
        for job in self.jobs.lock().await.iter() {
            let ask = v1::GetJobRequest { job_id: job.clone() };
            let job = self.people().get_job(ask).await.map_err(|status| failed("show a job", &status))?.into_inner();
            completed += job.subjects.iter().filter(|subject| subject.trained.is_some()).count();
        }
        Ok(completed)
    }
}

fn channels(process: &Process) -> Result<Vec<Channel>, Failure> {
    (0..CONNECTIONS).map(|_| Ok(process.endpoint()?.tcp_nodelay(true).connect_lazy())).collect()
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// A small grey PNG.
fn blank() -> Result<Vec<u8>, png::EncodingError> {
    const SIDE: u32 = 64;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, SIDE, SIDE);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header()?.write_image_data(&[128; (SIDE * SIDE) as usize])?;
    Ok(bytes)
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
