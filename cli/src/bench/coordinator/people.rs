//! The tenants of the coordinator under test: their subjects, jobs and watches.

use super::failed;
use super::fleet::{MODEL, Spans, Workers};
use super::process::Process;
use crate::args::BenchCoordinatorArgs;
use crate::exit::{Exit, Failure};
use likeness_proto::v1::admin_client::AdminClient;
use likeness_proto::v1::avatars_client::AvatarsClient;
use likeness_proto::v1::put_subject_request::Part;
use likeness_proto::v1::workers_client::WorkersClient;
use likeness_proto::{Bearer, Incarnation, PROTOCOL_VERSION, Role, Secret, TaskKind, v1};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

type Front = AvatarsClient<InterceptedService<Channel, Bearer>>;

/// Subjects of a tenant at most; a job of the queue is about all of them.
const SUBJECTS: usize = 100;
/// Subjects of all tenants together, about.
const ALL_SUBJECTS: usize = 1000;
/// Connections that everybody shares.
const CONNECTIONS: usize = 8;
/// Submissions at the same time while the queue is filled.
const FILLERS: usize = 4;
/// Watches of a connection, which has windows and streams to itself.
const WATCHES: usize = 100;
/// How long a client thinks between two jobs.
const THINK: Duration = Duration::from_millis(250);
const MAX_MESSAGE: usize = 64 << 20;

/// Everybody who calls, and how to reach the coordinator.
#[derive(Clone)]
pub(super) struct Desk {
    channels: Arc<Vec<Channel>>,
    /// Opens everything.
    token: Secret,
    /// A member's key of each tenant.
    tenants: Arc<Vec<Secret>>,
    /// Subjects of each tenant.
    subjects: usize,
    pub(super) bucket: PathBuf,
    pub(super) workers: usize,
    clients: usize,
    /// How long a worker takes for a training, if it is to take its time.
    pub(super) pace: Option<Duration>,
    /// Jobs accepted, and whose they are.
    jobs: Arc<Mutex<Vec<(usize, String)>>>,
    next: Arc<AtomicUsize>,
}

impl Desk {
    /// Connects, registers a worker, makes the tenants and puts their subjects.
    pub(super) async fn open(process: &Process, args: &BenchCoordinatorArgs) -> Result<Self, Failure> {
        let tenants = args.tenants as usize;
        let mut desk = Self {
            channels: Arc::new(channels(process, CONNECTIONS)?),
            token: process.token()?,
            tenants: Arc::default(),
            subjects: (ALL_SUBJECTS / tenants).clamp(1, SUBJECTS),
            bucket: process.bucket(),
            workers: args.workers,
            clients: args.clients,
            pace: args.rate.map(|rate| Duration::from_secs_f64(args.workers as f64 / rate)),
            jobs: Arc::default(),
            next: Arc::default(),
        };
        let registered = desk.register("bench", Incarnation::new()).await;
        registered.map_err(|status| failed("register a worker", &status))?;
        let mut keys = Vec::with_capacity(tenants);
        for number in 0..tenants {
            keys.push(desk.tenant(&format!("bench-{number}")).await?);
        }
        desk.tenants = Arc::new(keys);
        for tenant in 0..tenants {
            desk.furnish(tenant).await?;
        }
        Ok(desk)
    }

    /// The same callers on a coordinator that was started again.
    pub(super) fn reopened(&self, process: &Process) -> Result<Self, Failure> {
        Ok(Self { channels: Arc::new(channels(process, CONNECTIONS)?), ..self.clone() })
    }

    fn channel(&self) -> Channel {
        self.channels[self.next.fetch_add(1, Ordering::Relaxed) % self.channels.len()].clone()
    }

    fn front(&self, tenant: usize, channel: Channel) -> Front {
        AvatarsClient::with_interceptor(channel, Bearer::new(&self.tenants[tenant]))
            .max_decoding_message_size(MAX_MESSAGE)
    }

    pub(super) fn fleet(&self) -> Workers {
        WorkersClient::with_interceptor(self.channel(), Bearer::new(&self.token))
    }

    pub(super) async fn register(&self, name: &str, incarnation: Incarnation) -> Result<(), tonic::Status> {
        let registration = v1::RegisterRequest {
            protocol_version: PROTOCOL_VERSION,
            worker: name.to_owned(),
            incarnation: incarnation.to_string(),
            kinds: vec![TaskKind::Train.encode()],
            models: vec![v1::BaseModel { digest: MODEL.into(), name: "none".into(), native_size: 64, factor: 8 }],
            software: "bench".into(),
            previews: false,
        };
        self.fleet().register(registration).await.map(drop)
    }

    /// Makes a tenant, and a key of it.
    async fn tenant(&self, id: &str) -> Result<Secret, Failure> {
        let mut admin = AdminClient::with_interceptor(self.channel(), Bearer::new(&self.token));
        let made = admin.create_tenant(v1::CreateTenantRequest { id: id.to_owned(), ..Default::default() }).await;
        made.map_err(|status| failed("make a tenant", &status))?;
        let ask = v1::CreateKeyRequest { tenant: id.to_owned(), role: Role::Member.encode(), seconds: 0 };
        let key = admin.create_key(ask).await.map_err(|status| failed("make a key", &status))?.into_inner();
        Secret::new(&key.token).map_err(Failure::unexpected)
    }

    /// Puts a tenant's subjects.
    async fn furnish(&self, tenant: usize) -> Result<(), Failure> {
        let listed = self.front(tenant, self.channel()).list_jobs(v1::ListJobsRequest { limit: 1 }).await;
        if !listed.map_err(|status| failed("list jobs", &status))?.into_inner().jobs.is_empty() {
            return Err(Failure::new(Exit::Setting, "the store has jobs already; name an empty one to measure on"));
        }
        for number in 0..self.subjects {
            self.put(tenant, &format!("subject-{number}")).await?;
        }
        Ok(())
    }

    async fn put(&self, tenant: usize, subject: &str) -> Result<(), Failure> {
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
        let put = self.front(tenant, self.channel()).put_subject(tokio_stream::iter(parts)).await;
        put.map(drop).map_err(|status| failed("store a subject", &status))
    }

    /// Submits a job of a tenant about this many of its subjects.
    async fn submit(&self, tenant: usize, subjects: usize) -> Result<(), tonic::Status> {
        let subject = |number| v1::JobSubject { name: format!("subject-{number}"), init: "person".into() };
        let prompt = v1::Prompt { text: "{subject} at sea".into(), seeds: vec![1] };
        let request = v1::SubmitJobRequest {
            idempotency_key: uuid::Uuid::new_v4().to_string(),
            subjects: (0..subjects).map(subject).collect(),
            train: Some(v1::TrainSpec::default()),
            render: Some(v1::RenderSpec { prompts: vec![prompt], ..Default::default() }),
            ..Default::default()
        };
        let job = self.front(tenant, self.channel()).submit_job(request).await?.into_inner();
        self.jobs.lock().await.push((tenant, job.id));
        Ok(())
    }

    /// Queues this many trainings.
    pub(super) async fn fill(&self, queued: usize) -> Result<(), Failure> {
        let (left, turn) = (Arc::new(AtomicUsize::new(queued)), Arc::new(AtomicUsize::new(0)));
        let mut fillers = JoinSet::new();
        for _ in 0..FILLERS {
            let (desk, left, turn) = (self.clone(), Arc::clone(&left), Arc::clone(&turn));
            fillers.spawn(async move {
                let take = |left: usize| Some(left.saturating_sub(desk.subjects)).filter(|_| left > 0);
                while let Ok(left) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                    let tenant = turn.fetch_add(1, Ordering::Relaxed) % desk.tenants.len();
                    desk.submit(tenant, left.min(desk.subjects)).await?;
                }
                Ok::<(), tonic::Status>(())
            });
        }
        while let Some(filled) = fillers.join_next().await {
            filled.map_err(Failure::unexpected)?.map_err(|status| failed("accept a job", &status))?;
        }
        Ok(())
    }

    /// Opens streams that watch jobs, and reads of each what comes, until it is dropped.
    pub(super) async fn watch(&self, process: &Process, watches: usize) -> Result<JoinSet<()>, Failure> {
        let channels = channels(process, watches.div_ceil(WATCHES))?;
        let jobs = self.jobs.lock().await.clone();
        let mut open = JoinSet::new();
        for number in 0..watches {
            let (tenant, job_id) = jobs[number % jobs.len()].clone();
            let mut front = self.front(tenant, channels[number / WATCHES].clone());
            let fault = |status| failed("let a job be watched", &status);
            let mut stream = front.watch_job(v1::WatchJobRequest { job_id }).await.map_err(fault)?.into_inner();
            stream.message().await.map_err(fault)?;
            open.spawn(async move { while let Ok(Some(_changed)) = stream.message().await {} });
        }
        Ok(open)
    }

    /// Works for `span`, all workers and clients at the same time.
    pub(super) async fn work(&self, workers: &[Incarnation], span: Duration) -> Spans {
        let until = Instant::now() + span;
        let mut everybody = JoinSet::new();
        for (number, incarnation) in workers.iter().enumerate() {
            everybody.spawn(self.clone().worker(number, *incarnation, until));
        }
        for number in 0..self.clients {
            everybody.spawn(self.clone().client(number, until));
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

    async fn client(self, number: usize, until: Instant) -> Spans {
        let mut spans = Spans::default();
        // Not all at the same time.
        sleep(THINK * number as u32 / self.clients as u32).await;
        while Instant::now() < until {
            let begun = Instant::now();
            match self.submit(number % self.tenants.len(), 1).await {
                Ok(()) => spans.submits.push(Spans::millis(begun)),
                Err(status) => spans.failed("submit", &status),
            }
            sleep(THINK).await;
        }
        spans
    }

    /// Trainings whose end the coordinator knows of.
    pub(super) async fn completed(&self) -> Result<usize, Failure> {
        let mut completed = 0;
        for (tenant, job_id) in self.jobs.lock().await.iter() {
            let ask = v1::GetJobRequest { job_id: job_id.clone() };
            let job = self.front(*tenant, self.channel()).get_job(ask).await;
            let job = job.map_err(|status| failed("show a job", &status))?.into_inner();
            completed += job.subjects.iter().filter(|subject| subject.trained.is_some()).count();
        }
        Ok(completed)
    }
}

fn channels(process: &Process, count: usize) -> Result<Vec<Channel>, Failure> {
    (0..count).map(|_| Ok(process.endpoint()?.tcp_nodelay(true).connect_lazy())).collect()
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
