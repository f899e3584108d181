//! A coordinator that does what a test tells it, on a real socket, and records every call. It runs on a runtime of its
//! own, so that a test can kill it with all its connections.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use likeness_proto::{
    ErrorCode, Refusal, Verdict,
    v1::{self, workers_server::WorkersServer},
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{Notify, mpsc},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

pub(crate) const TOKEN: &str = "s3cret";
/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A call that arrived.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Register(v1::RegisterRequest),
    Lease(v1::LeaseRequest),
    Renew(v1::RenewRequest),
    Complete(Box<v1::CompleteRequest>),
    Fail(v1::FailRequest),
    Release(v1::ReleaseRequest),
}

impl Call {
    fn name(&self) -> &'static str {
        match self {
            Self::Register(_) => "register",
            Self::Lease(_) => "lease",
            Self::Renew(_) => "renew",
            Self::Complete(_) => "complete",
            Self::Fail(_) => "fail",
            Self::Release(_) => "release",
        }
    }
}

pub(crate) struct Coordinator {
    pub(crate) address: SocketAddr,
    service: Service,
    calls: mpsc::UnboundedReceiver<Call>,
    runtime: Option<Runtime>,
}

impl Coordinator {
    /// Listens on a free port.
    pub(crate) async fn start() -> Self {
        let mut coordinator = Self::closed().await;
        coordinator.open().await;
        coordinator
    }

    /// Has a port, and does not listen there yet.
    pub(crate) async fn closed() -> Self {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (told, calls) = mpsc::unbounded_channel();
        let script =
            Script { told, grants: Mutex::default(), granted: Notify::new(), rules: Mutex::new(Rules::plain()) };
        Self { address, service: Service(Arc::new(script)), calls, runtime: None }
    }

    /// Listens from now on.
    pub(crate) async fn open(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (address, service) = (self.address, self.service.clone());
        let (bound, listening) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind(address).await.unwrap();
            bound.send(()).unwrap();
            let incoming = TcpListenerStream::new(listener);
            Server::builder().add_service(WorkersServer::new(service)).serve_with_incoming(incoming).await.unwrap();
        });
        listening.await.unwrap();
        self.runtime = Some(runtime);
    }

    /// Dies with all its connections.
    pub(crate) async fn kill(&mut self) {
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
    }

    /// Grants this to whoever asks next.
    pub(crate) fn grant(&self, grant: v1::Grant) {
        self.service.0.grants.lock().unwrap().push_back(grant);
        self.service.0.granted.notify_one();
    }

    /// Leases live this long from now on.
    pub(crate) fn lease_for(&self, lease: Duration) {
        self.service.0.rules.lock().unwrap().lease = lease;
    }

    /// Answers renewals so from now on.
    pub(crate) fn decide(&self, verdict: Verdict) {
        self.service.0.rules.lock().unwrap().verdict = verdict;
    }

    /// Refuses the next call of this name; several wait for several calls.
    pub(crate) fn refuse(&self, call: &'static str, status: impl Into<Status>) {
        self.service.0.rules.lock().unwrap().refusals.push((call, status.into()));
    }

    /// How many refusals nobody has met yet.
    pub(crate) fn refusals_left(&self) -> usize {
        self.service.0.rules.lock().unwrap().refusals.len()
    }

    /// The next call that `pick` wants; others are skipped.
    pub(crate) async fn next<T>(&mut self, pick: impl Fn(Call) -> Option<T>) -> T {
        let found = async {
            loop {
                let call = self.calls.recv().await.unwrap();
                if let Some(found) = pick(call) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("the call should have come")
    }

    pub(crate) async fn registered(&mut self) -> v1::RegisterRequest {
        self.next(|call| if let Call::Register(request) = call { Some(request) } else { None }).await
    }

    pub(crate) async fn asked_for_tasks(&mut self) -> v1::LeaseRequest {
        self.next(|call| if let Call::Lease(request) = call { Some(request) } else { None }).await
    }

    pub(crate) async fn renewed(&mut self) -> v1::RenewRequest {
        self.next(|call| if let Call::Renew(request) = call { Some(request) } else { None }).await
    }

    pub(crate) async fn completed(&mut self) -> v1::CompleteRequest {
        self.next(|call| if let Call::Complete(request) = call { Some(*request) } else { None }).await
    }

    pub(crate) async fn failed(&mut self) -> v1::FailRequest {
        self.next(|call| if let Call::Fail(request) = call { Some(request) } else { None }).await
    }

    pub(crate) async fn released(&mut self) -> v1::ReleaseRequest {
        self.next(|call| if let Call::Release(request) = call { Some(request) } else { None }).await
    }

    /// Calls that have arrived and were not looked at.
    pub(crate) fn unseen(&mut self) -> Vec<Call> {
        std::iter::from_fn(|| self.calls.try_recv().ok()).collect()
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Rules {
    lease: Duration,
    verdict: Verdict,
    refusals: Vec<(&'static str, Status)>,
}

impl Rules {
    fn plain() -> Self {
        Self { lease: Duration::from_secs(10), verdict: Verdict::Continue, refusals: Vec::new() }
    }
}

struct Script {
    told: mpsc::UnboundedSender<Call>,
    grants: Mutex<VecDeque<v1::Grant>>,
    granted: Notify,
    rules: Mutex<Rules>,
}

#[derive(Clone)]
struct Service(Arc<Script>);

impl Service {
    /// Records a call; refuses it if the test wants that or the token is missing.
    fn meet<T>(&self, request: Request<T>, call: impl Fn(T) -> Call) -> Result<(), Status> {
        let presented = request.metadata().get("authorization").cloned();
        let call = call(request.into_inner());
        let name = call.name();
        let _ = self.0.told.send(call);
        if presented.is_none_or(|token| token != format!("Bearer {TOKEN}").as_str()) {
            return Err(Refusal::new(ErrorCode::Unauthenticated, "the token is wrong").into());
        }
        let mut rules = self.0.rules.lock().unwrap();
        match rules.refusals.iter().position(|(of, _)| *of == name) {
            Some(index) => Err(rules.refusals.remove(index).1),
            None => Ok(()),
        }
    }

    /// Up to `capacity` grants, when there is one.
    async fn grants(&self, capacity: usize) -> Vec<v1::Grant> {
        loop {
            let granted = self.0.granted.notified();
            let grants: Vec<_> = {
                let mut waiting = self.0.grants.lock().unwrap();
                let count = capacity.min(waiting.len());
                waiting.drain(..count).collect()
            };
            if !grants.is_empty() {
                return grants;
            }
            granted.await;
        }
    }
}

#[tonic::async_trait]
impl v1::workers_server::Workers for Service {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        self.meet(request, Call::Register)?;
        let lease_ms = self.0.rules.lock().unwrap().lease.as_millis() as u32;
        Ok(Response::new(v1::RegisterResponse { lease_ms, renew_ms: 50 }))
    }

    async fn lease(&self, request: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        let v1::LeaseRequest { capacity, wait_ms, .. } = *request.get_ref();
        self.meet(request, Call::Lease)?;
        let wait = Duration::from_millis(wait_ms.into());
        let grants = tokio::time::timeout(wait, self.grants(capacity as usize)).await.unwrap_or_default();
        Ok(Response::new(v1::LeaseResponse { grants }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let tasks: Vec<_> = request.get_ref().renewals.iter().map(|renewal| renewal.task_id.clone()).collect();
        self.meet(request, Call::Renew)?;
        let verdict = self.0.rules.lock().unwrap().verdict.encode();
        let standings = tasks.into_iter().map(|task_id| v1::Standing { task_id, verdict }).collect();
        Ok(Response::new(v1::RenewResponse { standings }))
    }

    async fn complete(&self, request: Request<v1::CompleteRequest>) -> Result<Response<v1::CompleteResponse>, Status> {
        self.meet(request, |request| Call::Complete(Box::new(request)))?;
        Ok(Response::new(v1::CompleteResponse {}))
    }

    async fn fail(&self, request: Request<v1::FailRequest>) -> Result<Response<v1::FailResponse>, Status> {
        self.meet(request, Call::Fail)?;
        Ok(Response::new(v1::FailResponse {}))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        self.meet(request, Call::Release)?;
        Ok(Response::new(v1::ReleaseResponse {}))
    }
}
