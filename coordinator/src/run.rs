//! The coordinator as a whole: opened eagerly, served until told to stop, ended in order.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, OptionFuture};
use likeness_proto::v1::DESCRIPTORS;
use likeness_proto::v1::admin_server::AdminServer;
use likeness_proto::v1::avatars_server::AvatarsServer;
use likeness_proto::v1::workers_server::WorkersServer;
use likeness_proto::{ModelDigest, Refusal, Secret};
use likeness_telemetry::rpc::{Ears, Served};
use object_store::ObjectStore;
use object_store::signer::Signer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::access::{Gate, LatestTls, Oidc, OidcError, OidcOptions, Pepper, Post, Tls, Tokens, table};
use crate::audit::Blind;
use crate::bucket::{Bucket, History};
use crate::clock::SystemClock;
use crate::health;
use crate::limits::{Handshake, Limits, incoming};
use crate::office::Office;
use crate::page::{self, PageOptions};
use crate::service::{AdminDesk, FleetDesk, FrontDesk, MAX_MESSAGE, Shared};
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{OpenError, Policy, Store, StoreAddress, Timed};
use crate::{counting, metrics};

/// What a coordinator needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it remembers.
    pub store: StoreAddress,
    /// Where photos, embeddings and avatars lie.
    pub bucket: Arc<dyn ObjectStore>,
    /// Signs links to objects there; `None`: people download through the coordinator.
    pub links: Option<Arc<dyn Signer>>,
    /// Finds what the bucket keeps of objects that are erased; `None`: it keeps nothing.
    pub history: Option<Arc<dyn History>>,
    /// Who may call without an API key.
    pub tokens: Tokens,
    /// The secret that API keys are hashed under: the same for all coordinators of a store.
    pub pepper: Secret,
    /// How callers and browsers are spoken to, and how workers are known without a token; `None`: in the clear.
    pub tls: Option<LatestTls>,
    /// Whose word is taken for who people are; `None`: nobody's.
    pub oidc: Option<OidcOptions>,
    /// Where browsers see the state of things; `None`: nowhere.
    pub page: Option<PageOptions>,
    /// How much callers may ask.
    pub limits: Limits,
    /// A lease lives this long after each renewal.
    pub lease: Duration,
    /// Tries of a task without getting further, after which its subject fails.
    pub attempts: u32,
    /// The base model of jobs that name none; `None`: the only one that the fleet holds.
    pub base_model: Option<ModelDigest>,
    /// Whether callers with a credential are told what services and messages there are (gRPC reflection).
    pub reflection: bool,
    /// Set to whether store and bucket answer, every few seconds, while somebody listens; `false` once the shutdown began.
    pub ready: watch::Sender<bool>,
    /// Calls that are going on may take this long to end after the shutdown began.
    pub drain_grace: Duration,
    /// Whether it counts what waits, for metrics.
    pub counts: bool,
}

impl Options {
    /// The usual settings: leases of 15 s, 3 attempts, 5 s to drain.
    pub fn new(store: StoreAddress, bucket: Arc<dyn ObjectStore>, tokens: Tokens, pepper: Secret) -> Self {
        let (lease, drain_grace) = (Duration::from_secs(15), Duration::from_secs(5));
        Self {
            store,
            bucket,
            links: None,
            history: None,
            tokens,
            pepper,
            tls: None,
            oidc: None,
            page: None,
            limits: Limits::default(),
            lease,
            attempts: 3,
            base_model: None,
            reflection: false,
            ready: watch::Sender::new(false),
            drain_grace,
            counts: false,
        }
    }
}

/// Why a coordinator did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The bucket cannot be written to, or the store failed; the code tells which.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The identity provider cannot be asked.
    #[error(transparent)]
    Oidc(#[from] OidcError),
    /// What the protos declare cannot be told.
    #[error("reflection cannot be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server failed.
    #[error("the server failed: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Serves on `listener` until `shutdown`. Returns when every call has ended or the grace is over; the store is closed
/// then.
///
/// # Errors
/// At once when the store or the bucket is out of order; later only when the server itself fails.
///
/// Boxed, so that this crate compiles the server, once, and not every crate that starts one.
pub fn run(
    listener: TcpListener,
    options: Options,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), CoordinatorError>> {
    Box::pin(live(listener, options, shutdown))
}

async fn live(listener: TcpListener, options: Options, shutdown: CancellationToken) -> Result<(), CoordinatorError> {
    let (lease, attempts, base_model) = (options.lease, options.attempts, options.base_model.clone());
    let policy = Policy { lease, attempts, base_model, blind: Blind::new(&options.pepper) };
    match &options.store {
        StoreAddress::Sqlite(file) => {
            let store = SqliteStore::open(file, None, policy).await?;
            live_on(Timed(store), listener, options, shutdown).await
        }
        StoreAddress::Postgres(server) => {
            let store = PostgresStore::open(server, None, policy).await?;
            live_on(Timed(store), listener, options, shutdown).await
        }
    }
}

async fn live_on<S: Store>(
    store: S,
    listener: TcpListener,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), CoordinatorError> {
    let people = options.oidc.clone().map(Oidc::new).transpose()?;
    let bucket = Bucket::new(Arc::clone(&options.bucket), options.links.clone()).with_history(options.history.clone());
    let tenants: Vec<_> = options.tokens.tenants().cloned().collect();
    let office = Office::open(store, bucket, options.limits.clone(), &tenants, Uuid::new_v4(), &shutdown).await?;
    let health = tokio::spawn(health::tell(Arc::clone(&office.shared), options.ready.clone()));
    let counting = options.counts.then(|| {
        let (count, verify) = (Arc::clone(&office.shared), Arc::clone(&office.shared));
        [tokio::spawn(counting::count(count)), tokio::spawn(counting::verify(verify))]
    });
    let served = serve(listener, &options, people, Arc::clone(&office.shared)).await;
    drop(counting.map(|tasks| tasks.map(AbortOnDropHandle::new)));
    office.close().await;
    health.abort(); // it holds the store that is closed now
    served
}

/// Serves until the shutdown, then waits for the calls that are going on.
async fn serve<S: Store>(
    listener: TcpListener,
    options: &Options,
    people: Option<Oidc>,
    shared: Arc<Shared<S>>,
) -> Result<(), CoordinatorError> {
    let stop = shared.shutdown.clone();
    let avatars = AvatarsServer::new(FrontDesk(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let workers = WorkersServer::new(FleetDesk(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let gate = Arc::new(Gate {
        tokens: options.tokens.clone(),
        pepper: Pepper::new(options.pepper.clone()),
        tls: options.tls.clone(),
        people,
        clock: Arc::new(SystemClock),
        shared,
    });
    let post = Post::new(Arc::clone(&gate));
    let page = options.page.clone().map(|page| page::serve(page, Arc::clone(&gate), stop.clone()));
    let ears = Ears { known: table::is_known, begins: table::is_asked_by_people, refused: metrics::refused };
    let reflection = options.reflection.then(|| {
        let declared = tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
        declared.build_v1().map(|reflection| Served::by(post.guard(reflection), ears))
    });
    let handshake = Handshake::by(options.tls.as_ref(), Tls::calls);
    let connections = incoming(Arc::new(listener), &options.limits, handshake).map(Ok::<_, Infallible>);
    let server = options
        .limits
        .server()
        .add_service(Served::by(post.guard(avatars), ears))
        .add_service(Served::by(post.guard(workers), ears))
        .add_service(Served::by(post.guard(AdminServer::new(AdminDesk(gate))), ears))
        .add_optional_service(reflection.transpose()?)
        .serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
    let deadline = async {
        stop.cancelled().await;
        tokio::time::sleep(options.drain_grace).await;
    };
    tokio::select! {
        (served, _page) = async { tokio::join!(server, OptionFuture::from(page)) } => Ok(served?),
        () = deadline => {
            tracing::warn!(grace = ?options.drain_grace, "calls still going on after the grace, cut off");
            Ok(())
        }
    }
}
