//! A coordinator that serves, its callers, and a worker that does as a test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use image::{DynamicImage, ImageFormat};
use likeness_proto::v1::avatars_client::AvatarsClient;
use likeness_proto::v1::put_subject_request::Part;
use likeness_proto::v1::workers_client::WorkersClient;
use likeness_proto::v1::{self, PutSubjectRequest};
use likeness_proto::{Bearer, Incarnation, ObjectRef, PROTOCOL_VERSION, Prefix, Refusal, Secret, TaskKind, wire_kinds};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::{CoordinatorError, Limits, Options, StoreAddress, Tokens, run};

pub(crate) const MODEL: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

pub(crate) type People = AvatarsClient<InterceptedService<Channel, Bearer>>;
pub(crate) type Fleet = WorkersClient<InterceptedService<Channel, Bearer>>;

/// A coordinator that serves, and where its memory lies.
pub(crate) struct Served {
    pub(crate) folder: Arc<TempDir>,
    pub(crate) bucket: Arc<InMemory>,
    pub(crate) address: SocketAddr,
    pub(crate) channel: Channel,
    pub(crate) shutdown: CancellationToken,
    pub(crate) running: JoinHandle<Result<(), CoordinatorError>>,
}

pub(crate) fn secret(text: &str) -> Secret {
    Secret::new(text).unwrap()
}

impl Served {
    pub(crate) async fn new() -> Self {
        Self::over(Arc::new(tempfile::tempdir().unwrap()), Arc::new(InMemory::new()), Duration::from_secs(60)).await
    }

    pub(crate) async fn with_lease(lease: Duration) -> Self {
        Self::over(Arc::new(tempfile::tempdir().unwrap()), Arc::new(InMemory::new()), lease).await
    }

    pub(crate) async fn with_limits(limits: Limits) -> Self {
        Self::with(|options| Options { limits, ..options }).await
    }

    pub(crate) async fn with(change: impl FnOnce(Options) -> Options) -> Self {
        Self::start(Arc::new(tempfile::tempdir().unwrap()), Arc::new(InMemory::new()), change).await
    }

    pub(crate) async fn over(folder: Arc<TempDir>, bucket: Arc<InMemory>, lease: Duration) -> Self {
        Self::start(folder, bucket, |options| Options { lease, ..options }).await
    }

    async fn start(folder: Arc<TempDir>, bucket: Arc<InMemory>, change: impl FnOnce(Options) -> Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tokens = Tokens::embedded("default".parse().unwrap(), &secret("right"));
        let store: Arc<dyn ObjectStore> = bucket.clone();
        let database = StoreAddress::Sqlite(folder.path().join("likeness.db"));
        let options = change(Options::new(database, store, tokens, secret("pepper")));
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(run(listener, options, shutdown.clone()));
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self { folder, bucket, address, channel, shutdown, running }
    }

    pub(crate) async fn restarted(self) -> Self {
        let (folder, bucket) = self.stop().await;
        Self::over(folder, bucket, Duration::from_secs(60)).await
    }

    pub(crate) fn people_with(&self, token: &str) -> People {
        AvatarsClient::with_interceptor(self.channel.clone(), Bearer::new(&secret(token)))
    }

    pub(crate) fn people(&self) -> People {
        self.people_with("right")
    }

    pub(crate) fn fleet(&self) -> Fleet {
        WorkersClient::with_interceptor(self.channel.clone(), Bearer::new(&secret("right")))
    }

    pub(crate) async fn put(
        &self,
        subject: &str,
        photos: &[(&str, Vec<u8>)],
    ) -> Result<v1::PutSubjectResponse, Refusal> {
        let sent = self.people().put_subject(futures::stream::iter(parts(subject, photos))).await;
        sent.map(tonic::Response::into_inner).map_err(|status| Refusal::read(&status))
    }

    /// A subject of one photo, and a job that trains it and draws one avatar.
    pub(crate) async fn submitted(&self) -> v1::Job {
        self.put("ada", &[("a.png", png(64, 48))]).await.unwrap();
        self.people().submit_job(request()).await.unwrap().into_inner()
    }

    pub(crate) async fn download(&self, key: &str) -> Result<Vec<u8>, Refusal> {
        let read = |status: Status| Refusal::read(&status);
        let request = v1::DownloadRequest { key: key.into() };
        let mut stream = self.people().download(request).await.map_err(read)?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.message().await.map_err(read)? {
            bytes.extend(chunk.data);
        }
        Ok(bytes)
    }

    /// Everything of anybody's in the bucket.
    pub(crate) async fn keys(&self) -> Vec<String> {
        self.keys_under("v1").await
    }

    pub(crate) async fn keys_under(&self, root: &str) -> Vec<String> {
        use futures::TryStreamExt;
        let listed: Vec<_> = self.bucket.list(Some(&Path::from(root))).try_collect().await.unwrap();
        listed.into_iter().map(|meta| meta.location.to_string()).collect()
    }

    pub(crate) async fn forget(&self, subject: &str) -> v1::ForgetReceipt {
        let forget = v1::ForgetSubjectRequest { subject: subject.into() };
        self.people().forget_subject(forget).await.unwrap().into_inner()
    }

    pub(crate) fn store(&self) -> StoreAddress {
        StoreAddress::Sqlite(self.folder.path().join("likeness.db"))
    }

    /// Ends it, so that its folder can be copied.
    pub(crate) async fn stop(self) -> (Arc<TempDir>, Arc<InMemory>) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
        (self.folder, self.bucket)
    }

    pub(crate) async fn get_job(&self, job: &v1::Job) -> v1::Job {
        let request = v1::GetJobRequest { job_id: job.id.clone() };
        self.people().get_job(request).await.unwrap().into_inner()
    }
}

pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    DynamicImage::new_rgb8(width, height).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

pub(crate) fn parts(subject: &str, photos: &[(&str, Vec<u8>)]) -> Vec<PutSubjectRequest> {
    let consent =
        v1::Consent { attested_by: "Ada".into(), capacity: v1::Capacity::Self_.into(), statement: "that is me".into() };
    let mut parts = vec![Part::Header(v1::SubjectHeader { subject: subject.into(), consent: Some(consent) })];
    for (name, bytes) in photos {
        let size = bytes.len() as u64;
        parts.push(Part::Photo(v1::PhotoHeader { file_name: (*name).into(), size, caption: String::new() }));
        parts.extend(bytes.chunks(1 << 20).map(|chunk| Part::Chunk(chunk.to_vec())));
    }
    parts.into_iter().map(|part| PutSubjectRequest { part: Some(part) }).collect()
}

pub(crate) fn request() -> v1::SubmitJobRequest {
    let prompt = v1::Prompt { text: "{subject} at sea".into(), seeds: vec![1] };
    v1::SubmitJobRequest {
        idempotency_key: "key".into(),
        subjects: vec![v1::JobSubject { name: "ada".into(), init: "person".into() }],
        train: Some(v1::TrainSpec::default()),
        render: Some(v1::RenderSpec { prompts: vec![prompt], ..Default::default() }),
        ..Default::default()
    }
}

/// A worker that does as the test says.
pub(crate) struct Worker<'a> {
    pub(crate) served: &'a Served,
    pub(crate) fleet: Fleet,
    pub(crate) incarnation: String,
}

impl<'a> Worker<'a> {
    pub(crate) fn registration(&self) -> v1::RegisterRequest {
        let (kinds, previews) = wire_kinds(TaskKind::ALL);
        v1::RegisterRequest {
            protocol_version: PROTOCOL_VERSION,
            worker: "node-1".into(),
            incarnation: self.incarnation.clone(),
            kinds,
            previews,
            models: vec![v1::BaseModel { digest: MODEL.into(), name: "tiny".into(), native_size: 64, factor: 8 }],
            software: "test".into(),
        }
    }

    pub(crate) async fn registered(served: &'a Served) -> Self {
        let mut worker = Self { served, fleet: served.fleet(), incarnation: Incarnation::new().to_string() };
        let request = worker.registration();
        worker.fleet.register(request).await.unwrap();
        worker
    }

    pub(crate) async fn lease(&mut self, wait_ms: u32) -> Vec<v1::Grant> {
        let (kinds, previews) = wire_kinds(TaskKind::ALL);
        let request = v1::LeaseRequest { incarnation: self.incarnation.clone(), kinds, capacity: 1, wait_ms, previews };
        self.fleet.lease(request).await.unwrap().into_inner().grants
    }

    pub(crate) async fn lease_one(&mut self) -> v1::Grant {
        self.lease(30_000).await.pop().expect("a task must be ready")
    }

    pub(crate) async fn write(&self, grant: &v1::Grant, name: &str) -> ObjectRef {
        let key = grant.output_prefix.parse::<Prefix>().unwrap().key(name).unwrap();
        self.served.bucket.put(&Path::from(key.as_str()), name.to_owned().into()).await.unwrap();
        ObjectRef::of(key, name.as_bytes())
    }

    /// Writes what the task asks for and reports it.
    pub(crate) async fn finish(&mut self, grant: &v1::Grant) -> Result<(), Refusal> {
        use v1::complete_request::Result as Outcome;
        let result = match grant.work.as_ref().unwrap() {
            v1::grant::Work::Train(_) => Outcome::Train(v1::TrainResult {
                embedding: Some(self.write(grant, "embedding.safetensors").await.into()),
                outcome: Some(v1::TrainOutcome { steps: 5, stop_reason: 1, ..Default::default() }),
                last: None,
            }),
            v1::grant::Work::Render(work) => {
                let v1::Shot { index, prompt, seed } = work.shots[0].clone();
                let object = Some(self.write(grant, "00000.png").await.into());
                Outcome::Render(v1::RenderResult {
                    avatars: vec![v1::Avatar { object, prompt, seed, index }],
                    seconds: 1.0,
                })
            }
            v1::grant::Work::Assemble(_) => Outcome::Assemble(v1::AssembleResult {
                contact_sheet: Some(self.write(grant, "contact-sheet.png").await.into()),
            }),
            v1::grant::Work::Preview(_) => {
                Outcome::Preview(v1::PreviewResult { picture: Some(self.write(grant, "00000.png").await.into()) })
            }
        };
        self.complete(grant, result).await
    }

    pub(crate) async fn complete(
        &mut self,
        grant: &v1::Grant,
        result: v1::complete_request::Result,
    ) -> Result<(), Refusal> {
        let request = v1::CompleteRequest {
            incarnation: self.incarnation.clone(),
            task_id: grant.task_id.clone(),
            fence: grant.fence,
            result: Some(result),
            warnings: vec![],
        };
        self.fleet.complete(request).await.map(drop).map_err(|status| Refusal::read(&status))
    }

    pub(crate) async fn checkpoint(&mut self, grant: &v1::Grant, object: ObjectRef) -> Result<v1::Verdict, Refusal> {
        let checkpoint = Some(v1::Checkpoint { object: Some(object.into()), step: 5 });
        self.report(grant, v1::TrainReport { step: 5, losses: vec![0.5; 5], checkpoint, ..Default::default() }).await
    }

    pub(crate) async fn report(&mut self, grant: &v1::Grant, report: v1::TrainReport) -> Result<v1::Verdict, Refusal> {
        let progress = Some(v1::renewal::Progress::Train(report));
        let renewal = v1::Renewal { task_id: grant.task_id.clone(), fence: grant.fence, progress };
        let request = v1::RenewRequest { incarnation: self.incarnation.clone(), renewals: vec![renewal] };
        let answer = self.fleet.renew(request).await.map_err(|status| Refusal::read(&status))?;
        Ok(answer.into_inner().standings[0].verdict())
    }
}
