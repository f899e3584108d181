//! The roles on their own: a coordinator, a trainer, a sampler.

use crate::bucket::Bucket;
use crate::commands::Context;
use crate::exit::{Exit, Failure};
use crate::group::Node;
use crate::health;
use crate::packing::{self, Measuring, Ready};
use crate::settings::{Settings, read_token};
use crate::state_dir::StateDir;
use crate::tls::ServerTls;
use crate::up::Tuning;
use crate::worker::Place;
use crate::{bucket, models, signals};
use likeness_coordinator::{
    CoordinatorError, LatestTls, Limits, OidcOptions, Options, PageOptions, StoreAddress, Tokens,
};
use likeness_proto::{Secret, TenantId};
use likeness_sampler::Sampler;
use likeness_trainer::{Packing, Plan, Trainer};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinError;

/// The one tenant of a service with one token.
const TENANT: &str = "local";

/// What the settings say of a coordinator. Nothing is made, opened or asked for it.
pub(crate) struct Said {
    tls: Option<ServerTls>,
    oidc: Option<OidcOptions>,
    bucket: bucket::Address,
    store: StoreAddress,
}

impl Said {
    /// # Errors
    /// [`Exit::Setting`] for files that cannot be read and settings that do not go together, [`Exit::Insecure`] for an address off this
    /// machine without TLS.
    pub(crate) fn of(settings: &Settings, state: &StateDir) -> Result<Self, Failure> {
        let tls = ServerTls::of(settings)?;
        if tls.is_none() {
            on_this_machine(settings.listen)?;
        }
        Ok(Self {
            tls,
            oidc: settings.oidc()?,
            bucket: bucket::Address::of(settings, state)?,
            store: settings.store.clone().unwrap_or_else(|| StoreAddress::Sqlite(state.store())),
        })
    }
}

/// Runs a coordinator until a signal.
pub(crate) async fn coordinator(context: &Context) -> Result<(), Failure> {
    let settings = &context.settings;
    let shutdown = signals::shutdown()?;
    let ready = health::serve(settings, &shutdown).await?;
    let state = StateDir::at(&settings.state).lock()?;
    let Said { tls, oidc, bucket, store } = Said::of(settings, state.dir())?;
    let tls = tls.map(ServerTls::follow).transpose()?;
    let listener = bind(settings.listen).await?;
    let address = listener.local_addr().map_err(Failure::unexpected)?;
    let bucket = bucket.open()?;
    let token = settings.token.clone().map_or_else(|| state.token(), Ok)?;
    let pepper = settings.pepper_file.as_deref().map_or_else(|| state.pepper(), read_token)?;
    let reflection = settings.reflection;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let base = coordinator_options(store, bucket, &token, pepper, &Tuning::from(settings))?;
    let most = settings.max_connections;
    let limits = Limits { connections: most, connections_per_address: most / 4, ..Limits::default() };
    let page = match settings.page_listen {
        Some(address) => Some(page(address, tls.clone()).await?),
        None => None,
    };
    let said =
        page.as_ref().map(page_url).transpose()?.map_or_else(String::new, |url| format!(", its status page at {url}"));
    let counts = settings.counts();
    let options = Options { tls, oidc, limits, reflection, ready, counts, page, ..base };
    if scheme == "http" {
        state.announce(address)?;
    }
    context.format.print(&format!("{scheme}://{address}"), |url| format!("the coordinator is up at {url}{said}"))?;
    likeness_coordinator::run(listener, options, shutdown).await.map_err(Into::into)
}

/// Runs a trainer until a signal.
pub(crate) async fn trainer(context: &Context) -> Result<(), Failure> {
    let shutdown = signals::shutdown()?;
    let settings = &context.settings;
    let ready = health::serve(settings, &shutdown).await?;
    let (node, state) = (Node::of(settings)?, StateDir::at(&settings.state));
    let place = if node.follows() { None } else { Some(Place::of(settings, "trainer")?) };
    let loaded = packing::load(settings, Some(&state), Measuring::Thoroughly);
    let Some(loaded) = shutdown.run_until_cancelled(loaded).await else { return Ok(()) };
    let Ready { model, plan, curve } = loaded?;
    let Some(place) = place else {
        // It is the leader who is missed where it cannot join.
        ready.send_replace(true);
        return node.follow(settings, &model, &plan, shutdown).await;
    };

    let group = node.group(settings, &model, curve)?;
    let (held, slots) = (models::on_the_wire(&model)?, plan.packing.slots.get());
    let options = likeness_trainer::Options { group: group.clone(), ..trainer_options(&plan) };
    let work = place.work(held, slots, Arc::new(Trainer::new(model, options)), ready, shutdown.clone());
    tokio::select! {
        ended = work => ended,
        Err(failure) = node.lead(group.as_ref(), shutdown.child_token()) => Err(failure),
    }
}

/// Runs a sampler until a signal.
pub(crate) async fn sampler(context: &Context) -> Result<(), Failure> {
    let shutdown = signals::shutdown()?;
    let ready = health::serve(&context.settings, &shutdown).await?;
    let place = Place::of(&context.settings, "sampler")?;
    let model = models::load_shared(&context.settings).await?;
    let held = models::on_the_wire(&model)?;
    let sampler = Arc::new(Sampler::new(model, likeness_sampler::Options::default()));
    place.work(held, context.settings.sampler_slots, sampler, ready, shutdown).await
}

/// How a trainer works that follows `plan`.
pub(crate) fn trainer_options(plan: &Plan) -> likeness_trainer::Options {
    let Packing { positions, slots } = plan.packing;
    likeness_trainer::Options { positions, slots: slots.get(), ..Default::default() }
}

/// What a coordinator over this store needs to know.
pub(crate) fn coordinator_options(
    store: StoreAddress,
    bucket: Bucket,
    token: &Secret,
    pepper: Secret,
    tuning: &Tuning,
) -> Result<Options, Failure> {
    let tenant: TenantId = TENANT.parse().map_err(Failure::unexpected)?;
    let tokens = Tokens::embedded(tenant, token);
    let Bucket { store: objects, links, history } = bucket;
    Ok(Options {
        lease: tuning.lease,
        attempts: tuning.attempts,
        links,
        history,
        ..Options::new(store, objects, tokens, pepper)
    })
}

/// How a coordinator that was spawned ended.
pub(crate) fn coordinator_end(ended: Result<Result<(), CoordinatorError>, JoinError>) -> Result<(), Failure> {
    ended.map_err(Failure::unexpected)?.map_err(Into::into)
}

impl From<CoordinatorError> for Failure {
    fn from(error: CoordinatorError) -> Self {
        match error {
            CoordinatorError::Store(error) => Self::new(Exit::State, error.to_string()),
            CoordinatorError::Refused(refusal) => refusal.into(),
            CoordinatorError::Oidc(error) => Self::new(Exit::Setting, error.to_string()),
            CoordinatorError::Serve(error) => Self::unexpected(error),
            CoordinatorError::Reflection(error) => Self::unexpected(error),
        }
    }
}

/// Binds the address to serve on.
///
/// # Errors
/// [`Exit::Insecure`] off this machine, [`Exit::PortInUse`] when it is taken, [`Exit::Setting`] when it cannot be had otherwise.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    on_this_machine(address)?;
    bind(address).await
}

/// Refuses an address that others could call.
pub(crate) fn on_this_machine(address: SocketAddr) -> Result<(), Failure> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Insecure,
        format!(
            "cannot listen on {address}: without TLS only this machine may call; set tls_cert and tls_key, or listen on 127.0.0.1 or ::1"
        ),
    ))
}

/// Binds the address of the status page, under the rules of the server's.
///
/// # Errors
/// As [`listen`].
pub(crate) async fn page(address: SocketAddr, tls: Option<LatestTls>) -> Result<PageOptions, Failure> {
    let bound = match tls {
        Some(_) => bind(address).await,
        None => listen(address).await,
    };
    let listener = bound.map_err(|failure| match failure.exit {
        Exit::PortInUse => Failure::new(
            Exit::PortInUse,
            format!("cannot serve the status page on {address}: the port is in use; stop what uses it, or set page_listen to another"),
        ),
        _ => failure,
    })?;
    Ok(PageOptions { listener: Arc::new(listener), tls })
}

/// Where a browser finds the page.
pub(crate) fn page_url(page: &PageOptions) -> Result<String, Failure> {
    let address = page.listener.local_addr().map_err(Failure::unexpected)?;
    Ok(format!("{}://{address}/", if page.tls.is_some() { "https" } else { "http" }))
}

/// Binds an address, whoever may call there.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => Failure::new(
            Exit::PortInUse,
            format!("cannot listen on {address}: the port is in use; stop what uses it, or choose another with --port"),
        ),
        _ => Failure::new(Exit::Setting, format!("cannot listen on {address}: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;
    use crate::settings::Sources;
    use crate::telemetry::Console;

    #[tokio::test]
    async fn a_trainer_without_a_server_says_so_before_it_loads_a_model() {
        let home = tempfile::tempdir().unwrap();
        let flags = vec![("state", home.path().display().to_string()), ("model", "/no such model".to_owned())];
        let resolved = Settings::resolve(&Sources { flags, ..Sources::default() }).unwrap();
        let (settings, rows) = (resolved.settings, resolved.rows);
        let context = Context { settings, rows, console: Console::stderr(), format: Format::Text };
        assert_eq!(trainer(&context).await.unwrap_err().exit, Exit::Unreachable);
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let first = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = first.local_addr().unwrap();
        let failure = listen(address).await.unwrap_err();
        assert_eq!(failure.exit, Exit::PortInUse);
        assert!(failure.message.contains(&address.to_string()), "{failure}");
    }

    #[tokio::test]
    async fn nobody_off_this_machine_is_served_without_tls() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            assert_eq!(listen(address.parse().unwrap()).await.unwrap_err().exit, Exit::Insecure);
        }
    }
}
