//! A worker on its own: where it works and as whom. Its credentials may be replaced while it works.

use crate::bucket;
use crate::client::Target;
use crate::exit::Failure;
use crate::health;
use crate::renewed::Files;
use crate::settings::Settings;
use crate::state_dir::StateDir;
use likeness_proto::{BaseModel, Incarnation, Secret};
use likeness_worker::{Backoff, NodeOptions, Way, Work};
use object_store::ObjectStore;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{SetOnce, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A worker node before it is known what it does.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Where the coordinator listens.
    pub server: Endpoint,
    /// The access token; none: the certificate of its connections says who it is.
    pub token: Option<Secret>,
    /// Its name, stable over restarts.
    pub name: String,
    /// The base model that its work holds.
    pub model: BaseModel,
    /// Tasks at once.
    pub slots: usize,
    /// The bucket.
    pub bucket: Arc<dyn ObjectStore>,
    /// How long it gets to hand back its tasks when it stops.
    pub drain: Duration,
    /// Set when the coordinator has taken it in.
    pub registered: Arc<SetOnce<()>>,
}

impl Worker {
    /// Does `work` until `shutdown`.
    ///
    /// # Errors
    /// When the coordinator refuses it.
    pub async fn run(self, work: Arc<dyn Work>, shutdown: CancellationToken) -> Result<(), Failure> {
        let options = NodeOptions {
            coordinator: Way::to(self.server),
            token: self.token,
            name: self.name,
            incarnation: Incarnation::new(),
            models: vec![self.model],
            slots: NonZeroUsize::new(self.slots).unwrap_or(NonZeroUsize::MIN),
            bucket: self.bucket,
            drain_grace: self.drain,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT).map_err(Failure::unexpected)?,
            registered: self.registered,
        };
        let likeness_worker::NodeError::Refused(refusal) = match likeness_worker::run(options, work, shutdown).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        Err(refusal.into())
    }
}

/// What the settings say of a worker: its coordinator, what it presents there, and the bucket. Nothing is opened or asked for it.
///
/// # Errors
/// As [`Target::of_worker`], [`Target::endpoint`], [`Target::presented`] and [`bucket::Address::of`].
pub(crate) fn said(settings: &Settings) -> Result<(Endpoint, Option<Secret>, bucket::Address), Failure> {
    let target = Target::of_worker(settings)?;
    let bucket = bucket::Address::of(settings, &StateDir::at(&settings.state))?;
    Ok((target.endpoint()?, target.presented()?, bucket))
}

/// Where a worker works and as whom: looked at before its model is loaded, so that what is missing is told at once.
pub(crate) struct Place {
    settings: Settings,
    /// What says who it is and whom it trusts.
    credentials: Files,
    server: Endpoint,
    token: Option<Secret>,
    bucket: Arc<dyn ObjectStore>,
    name: String,
}

impl Place {
    /// As the settings say; `role` is its name where they name none.
    ///
    /// # Errors
    /// As [`said`], and when the bucket cannot be opened.
    pub(crate) fn of(settings: &Settings, role: &str) -> Result<Self, Failure> {
        let credentials = Files::read([
            ("tls_ca", settings.tls_ca.as_ref()),
            ("tls_client_cert", settings.tls_client_cert.as_ref()),
            ("tls_client_key", settings.tls_client_key.as_ref()),
            ("token_file", settings.token_file.as_ref()),
        ])?;
        let settings = settings.with_token_of_now()?;
        let (server, token, bucket) = said(&settings)?;
        let name = settings.name.clone().unwrap_or_else(|| role.to_owned());
        Ok(Self { credentials, server, token, bucket: bucket.open()?.store, name, settings })
    }

    /// Does `work` until `shutdown`; says to `ready` when the coordinator has taken it in. When its credentials are replaced, it hands back
    /// its tasks, to go on from their checkpoints, and comes again as whom they name.
    ///
    /// # Errors
    /// When the coordinator refuses it, and its credentials are still those.
    pub(crate) async fn work(
        mut self,
        model: BaseModel,
        slots: usize,
        work: Arc<dyn Work>,
        ready: watch::Sender<bool>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let registered = Arc::<SetOnce<()>>::default();
        health::ready_after(ready, {
            let registered = Arc::clone(&registered);
            async move { *registered.wait().await }
        });
        loop {
            let turn = shutdown.child_token();
            let worker = self.worker(model.clone(), slots, Arc::clone(&registered));
            let mut working = pin!(worker.run(Arc::clone(&work), turn.clone()));
            let (ended, next) = tokio::select! {
                ended = &mut working => (ended, None),
                next = self.replaced() => {
                    turn.cancel();
                    (working.await, Some(next))
                }
            };
            // Refused at once where the former ones were revoked before the new were seen.
            let next = next.or_else(|| if ended.is_err() { self.looked_at_again() } else { None });
            match next {
                Some(next) if !shutdown.is_cancelled() => {
                    tracing::info!("credentials were replaced");
                    self = next;
                }
                _same => return ended,
            }
        }
    }

    fn worker(&self, model: BaseModel, slots: usize, registered: Arc<SetOnce<()>>) -> Worker {
        let (server, token, name) = (self.server.clone(), self.token.clone(), self.name.clone());
        let (bucket, drain) = (Arc::clone(&self.bucket), self.settings.drain());
        Worker { server, token, name, model, slots, bucket, drain, registered }
    }

    /// Waits for credentials that can be used.
    async fn replaced(&mut self) -> Self {
        loop {
            self.credentials.changed().await;
            match Self::of(&self.settings, &self.name) {
                Ok(next) => return next,
                Err(failure) => tracing::warn!(%failure, "credentials were replaced by what is not used"),
            }
        }
    }

    fn looked_at_again(&mut self) -> Option<Self> {
        let is_new = self.credentials.look();
        if is_new { Self::of(&self.settings, &self.name).ok() } else { None }
    }
}
