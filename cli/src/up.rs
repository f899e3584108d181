//! `up`: coordinator, trainer and sampler in one process, speaking gRPC over loopback.

use crate::bucket::Address;
use crate::commands::Context;
use crate::exit::{Exit, Failure};
use crate::packing::{self, Measuring, Ready};
use crate::settings::Settings;
use crate::state_dir::{LockedState, StateDir};
use crate::tls::ServerTls;
use crate::worker::Worker;
use crate::{health, models, roles, signals};
use likeness_coordinator::{Options, PageOptions, StoreAddress};
use likeness_sampler::Sampler;
use likeness_trainer::Trainer;
use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tracing::info;

/// Where `up` serves its status page, if nobody says otherwise.
const PAGE_PORT: u16 = 7433;

/// What a whole service is made of.
#[derive(Debug)]
pub struct Up {
    /// Its state folder.
    pub state: LockedState,
    /// Where its coordinator remembers.
    pub store: StoreAddress,
    /// Its bucket.
    pub bucket: Address,
    /// The base model that trainer and sampler share, and how the trainer packs.
    pub ready: Ready,
    /// How it works.
    pub tuning: Tuning,
    /// Where its status page is served; none: nowhere.
    pub page: Option<PageOptions>,
}

/// How a service works.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// A lease lives this long after each renewal.
    pub lease: Duration,
    /// Times that a task is tried.
    pub attempts: u32,
    /// How long workers get to hand back their tasks when it stops.
    pub drain: Duration,
    /// Render tasks that a sampler holds at the same time.
    pub sampler_slots: usize,
    /// Whether the coordinator counts what waits, for metrics.
    pub counts: bool,
}

#[derive(Serialize)]
struct UpView {
    server: String,
    page: String,
    state: String,
    base_model: String,
    pid: u32,
}

/// Serves on `listener` until `shutdown`; then the workers hand back their tasks, and the coordinator ends last.
/// `ready` is called when clients find the server and it takes jobs: both workers are registered.
///
/// # Errors
/// What keeps a role from starting or ends it early.
pub async fn serve(
    up: Up,
    listener: TcpListener,
    shutdown: CancellationToken,
    ready: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let address = listener.local_addr().map_err(Failure::unexpected)?;
    up.bucket.remove_unfinished()?; // the locked state says that nobody else writes
    let (token, bucket) = (up.state.token()?, up.bucket.open()?);
    let base = roles::coordinator_options(up.store, bucket.clone(), &token, up.state.pepper()?, &up.tuning)?;
    let options = Options { counts: up.tuning.counts, page: up.page, ..base };
    let server = Endpoint::from_shared(format!("http://{address}")).map_err(Failure::unexpected)?;
    let Ready { model, plan, .. } = up.ready;
    let held = models::on_the_wire(&model)?;
    let registered: [Arc<SetOnce<()>>; 2] = Default::default();
    let worker = |name: &str, slots, registered: &Arc<SetOnce<()>>| Worker {
        server: server.clone(),
        token: Some(token.clone()),
        name: name.to_owned(),
        model: held.clone(),
        slots,
        bucket: bucket.store.clone(),
        drain: up.tuning.drain,
        registered: Arc::clone(registered),
    };
    let trainer = Arc::new(Trainer::new(model.clone(), roles::trainer_options(&plan)));
    let sampler = Arc::new(Sampler::new(model, likeness_sampler::Options::default()));

    let desk_stop = CancellationToken::new();
    let mut desk = tokio::spawn(likeness_coordinator::run(listener, options, desk_stop.clone()));
    let open = async {
        let all = async { tokio::join!(registered[0].wait(), registered[1].wait()) };
        match shutdown.run_until_cancelled(all).await {
            Some(_) => up.state.announce(address).and_then(|()| ready()),
            None => Ok(()),
        }
    };
    let crew = async {
        tokio::try_join!(
            worker("trainer", plan.packing.slots.get(), &registered[0]).run(trainer, shutdown.clone()),
            worker("sampler", up.tuning.sampler_slots, &registered[1]).run(sampler, shutdown.clone()),
            open,
        )
    };
    tokio::select! {
        ended = &mut desk => return roles::coordinator_end(ended),
        ended = crew => drop(ended?),
    };
    desk_stop.cancel();
    let ended = roles::coordinator_end(desk.await);
    info!("stopped");
    ended
}

/// Serves what the settings say, until a signal.
pub(crate) async fn command(context: &Context) -> Result<(), Failure> {
    let settings = &context.settings;
    let shutdown = signals::shutdown()?;
    let state = StateDir::at(&settings.state).lock()?;
    let healthy = health::serve(settings, &shutdown).await?;
    let listener = roles::listen(settings.listen).await?;
    let page = page(settings).await?;
    let ready = packing::load(settings, Some(state.dir()), Measuring::Briefly);
    let Some(ready) = shutdown.run_until_cancelled(ready).await else { return Ok(()) };
    let ready = ready?;
    let address = listener.local_addr().map_err(Failure::unexpected)?;
    let view = UpView {
        server: format!("http://{address}"),
        page: roles::page_url(&page)?,
        state: settings.state.display().to_string(),
        base_model: ready.model.digest.to_string(),
        pid: std::process::id(),
    };
    let bucket = Address::of(settings, state.dir())?;
    let store = settings.store.clone().unwrap_or_else(|| StoreAddress::Sqlite(state.dir().store()));
    let up = Up { state, store, bucket, ready, tuning: Tuning::from(settings), page: Some(page) };
    let text = |view: &UpView| {
        let UpView { server, page, state, .. } = view;
        format!(
            "likeness is up at {server}, state in {state}; see it at {page}, signed in with the token in {state}/token"
        )
    };
    let open = || {
        healthy.send_replace(true);
        context.format.print(&view, text)
    };
    serve(up, listener, shutdown, open).await
}

/// The status page where it is set to be, else at its usual port, else, where that is taken, at any.
async fn page(settings: &Settings) -> Result<PageOptions, Failure> {
    let address = settings.page_listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, PAGE_PORT)));
    let tls = ServerTls::of(settings)?.map(ServerTls::follow).transpose()?;
    match roles::page(address, tls.clone()).await {
        Err(failure) if failure.exit == Exit::PortInUse && settings.page_listen.is_none() => {
            roles::page(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), tls).await
        }
        bound => bound,
    }
}

impl From<&Settings> for Tuning {
    fn from(settings: &Settings) -> Self {
        Self {
            lease: settings.lease(),
            attempts: settings.attempts,
            drain: settings.drain(),
            sampler_slots: settings.sampler_slots,
            counts: settings.counts(),
        }
    }
}
