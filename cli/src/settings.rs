//! Settings: defaults < file < `LIKENESS__*` < flags. Only this module reads the environment.

mod keys;
mod layers;
mod secret;

pub use keys::{KEYS, Key, nearest};
pub use layers::{Origin, Sources};
pub use secret::{read_token, token};

use crate::device::{DeviceWish, PrecisionWish};
use crate::exit::{Exit, Failure};
use likeness_coordinator::{NoStore, OidcOptions, StoreAddress};
use likeness_proto::Secret;
use likeness_trainer::Placement;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a server listens and a client looks when nobody says otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7431";

/// Everything that can be set, with all layers applied. [`KEYS`] documents each.
#[derive(Clone, Debug, Deserialize)]
pub struct Settings {
    /// Base model directory; none: the bundled one.
    pub model: Option<PathBuf>,
    /// Folder that keeps base models as they are computed with; none: nothing is kept.
    pub model_cache: Option<PathBuf>,
    /// State folder.
    pub state: PathBuf,
    /// Server that the client and the workers call; none: the one whose address is in the state folder.
    pub server: Option<String>,
    /// Access token; none: the one in the state folder.
    #[serde(skip)]
    pub token: Option<Secret>,
    /// File that the token is from, where one is set.
    pub token_file: Option<PathBuf>,
    /// Which log lines are written, as `tracing` filters.
    pub log: Option<String>,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Where tensors live.
    pub device: DeviceWish,
    /// What text encoder and UNet compute in.
    pub precision: PrecisionWish,
    /// Threads that compute; 0: all cores.
    pub threads: usize,
    /// Whether convolutions are computed as plain sums.
    pub exact: bool,
    /// Whether training computes activations again instead of keeping them; none: where they would not fit.
    pub checkpointing: Option<bool>,
    /// MiB that a process which trains may take; none: three quarters of what there is.
    pub memory_budget: Option<u64>,
    /// Where the server listens.
    pub listen: SocketAddr,
    /// Where health is asked for; none: nowhere.
    pub health_listen: Option<SocketAddr>,
    /// Whether a coordinator says what services and messages it knows.
    pub reflection: bool,
    /// Where a coordinator serves its status page; none: nowhere, of `up` on this machine.
    pub page_listen: Option<SocketAddr>,
    /// Where the coordinator remembers; none: `likeness.db` in the state folder.
    #[serde(skip)]
    pub store: Option<StoreAddress>,
    /// File with the secret that API keys are hashed under; none: `pepper` in the state folder.
    pub pepper_file: Option<PathBuf>,
    /// Certificates of the server, as PEM; with [`Settings::tls_key`] it speaks TLS.
    pub tls_cert: Option<PathBuf>,
    /// Private key of the first of them, as PEM.
    pub tls_key: Option<PathBuf>,
    /// Certificates that client and workers trust besides the system's, as PEM.
    pub tls_ca: Option<PathBuf>,
    /// Authorities that sign certificates of workers, as PEM; with [`Settings::trust_domain`] a coordinator takes such.
    pub tls_client_ca: Option<PathBuf>,
    /// Lists of those that were revoked, one of each authority, as PEM.
    pub tls_client_crl: Option<PathBuf>,
    /// What certificates of workers are of.
    pub trust_domain: Option<String>,
    /// A worker's certificate, as PEM; with [`Settings::tls_client_key`] it needs no token.
    pub tls_client_cert: Option<PathBuf>,
    /// Private key of that certificate, as PEM.
    pub tls_client_key: Option<PathBuf>,
    /// Identity provider whose tokens a coordinator takes.
    pub oidc_issuer: Option<String>,
    /// What they must be for.
    pub oidc_audience: Option<String>,
    /// Where the provider's keys are; none: where it says.
    pub oidc_jwks: Option<String>,
    /// The claim that names a person's tenant.
    pub oidc_tenant_claim: String,
    /// The claim that names a person's role.
    pub oidc_role_claim: String,
    /// Connections that a coordinator keeps at a time.
    pub max_connections: usize,
    /// Bucket as a `file://` or `s3://` URL; none: `bucket` in the state folder.
    pub bucket: Option<String>,
    /// Where an S3 bucket is served; none: by AWS.
    pub bucket_endpoint: Option<String>,
    /// Region of an S3 bucket.
    pub bucket_region: String,
    /// Id and secret of an access key to an S3 bucket; none: as AWS's own variables and services say.
    #[serde(skip)]
    pub bucket_key: Option<(String, Secret)>,
    /// Seconds that the client goes on trying while the server does not answer.
    retry_seconds: f64,
    /// Seconds that workers get to hand back their tasks when the server stops.
    drain_seconds: f64,
    /// Seconds that a lease lives after each renewal.
    lease_seconds: f64,
    /// Times that a task is tried.
    pub attempts: u32,
    /// Subjects that are trained at the same time; none: chosen from a measured curve.
    pub trainer_slots: Option<usize>,
    /// Render tasks that a sampler holds at the same time.
    pub sampler_slots: usize,
    /// Where `/metrics` and `/healthz` are served; none: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Collector that is told of metrics.
    pub metrics_otlp_endpoint: Option<String>,
    /// Collector that is told of traces.
    pub tracing_otlp_endpoint: Option<String>,
    /// How collectors are told.
    pub otlp_protocol: OtlpProtocol,
    /// The worker's name.
    pub name: Option<String>,
    /// Devices of a trainer that share its steps.
    pub ranks: usize,
    /// Where the leader of a group of trainers listens.
    pub group_leader: Option<String>,
    /// Trainers in the group.
    pub group_size: usize,
    /// Which of them this is.
    pub group_index: usize,
    /// Seconds that a rank may keep its group waiting.
    group_deadline_seconds: f64,
    /// Whether a group may span machines though nothing is encrypted.
    pub group_plaintext: bool,
    /// How samples are given to ranks.
    pub placement: PlacementWish,
}

/// How samples are given to ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlacementWish {
    /// As takes less time.
    Auto,
    /// A subject's samples over all ranks.
    Split,
    /// A subject to a rank.
    Spread,
}

impl PlacementWish {
    /// What is set; none: the trainer chooses.
    #[must_use]
    pub fn chosen(self) -> Option<Placement> {
        match self {
            Self::Auto => None,
            Self::Split => Some(Placement::Split),
            Self::Spread => Some(Placement::Spread),
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How a collector is told of metrics and traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum OtlpProtocol {
    /// OTLP over gRPC.
    #[serde(rename = "grpc")]
    Grpc,
    /// OTLP over HTTP, as protocol buffers.
    #[serde(rename = "http/protobuf", alias = "http")]
    Http,
}

/// Settings and where each came from.
#[derive(Debug)]
pub struct Resolved {
    /// The settings.
    pub settings: Settings,
    /// Name, value as text (secrets hidden) and origin of every key that has a value, in the order of [`KEYS`].
    pub rows: Vec<Row>,
}

/// One setting as it is in force.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// Name of the setting.
    pub key: &'static Key,
    /// Its value; secrets are hidden; none: not set.
    pub value: Option<String>,
    /// The layer it is from.
    pub origin: Origin,
}

impl Settings {
    /// Applies the layers.
    ///
    /// # Errors
    /// [`Exit::Setting`] with the key (and the nearest known one) or value that is not accepted, [`Exit::Token`] when
    /// the token's file cannot be read.
    pub fn resolve(sources: &Sources) -> Result<Resolved, Failure> {
        let (table, rows) = layers::merge(sources)?;
        let refuse = |error: config::ConfigError| Failure::new(Exit::Setting, error.to_string());
        let text = |key: &str| table.get::<Option<String>>(key).or_else(absent).map_err(refuse);
        let token = match (text("token")?, text("token_file")?) {
            (Some(text), _) => Some(token(&text)?),
            (None, Some(path)) => Some(read_token(Path::new(&path))?),
            (None, None) => None,
        };
        let store = text("store")?.map(|text| text.parse()).transpose();
        let store = store.map_err(|error: NoStore| Failure::new(Exit::Setting, error.to_string()))?;
        let bucket_key = match (text("bucket_key_id")?, text("bucket_secret")?) {
            (Some(id), Some(key)) => Some((id, secret::token(&key)?)),
            (None, None) => None,
            _one => {
                return Err(Failure::new(
                    Exit::Setting,
                    "bucket_key_id and bucket_secret are set together or not at all",
                ));
            }
        };
        let mut settings: Self = table.try_deserialize().map_err(refuse)?;
        settings.check()?;
        settings.token = token;
        settings.store = store;
        settings.bucket_key = bucket_key;
        Ok(Resolved { settings, rows })
    }

    /// The same with the token that [`Settings::token_file`] holds by now.
    ///
    /// # Errors
    /// [`Exit::Token`] when it cannot be read.
    pub(crate) fn with_token_of_now(&self) -> Result<Self, Failure> {
        let token =
            self.token_file.as_deref().map_or_else(|| Ok(self.token.clone()), |path| read_token(path).map(Some));
        Ok(Self { token: token?, ..self.clone() })
    }

    /// The same on the CPU, in its own precision.
    #[must_use]
    pub fn on_cpu(&self) -> Self {
        Self { device: DeviceWish::Cpu, precision: PrecisionWish::F32, ..self.clone() }
    }

    /// Whether anybody hears what is counted.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.metrics_listen.is_some() || self.metrics_otlp_endpoint.is_some()
    }

    /// How long the client goes on trying while the server does not answer.
    #[must_use]
    pub fn retry(&self) -> Duration {
        Duration::from_secs_f64(self.retry_seconds)
    }

    /// How long workers get to hand back their tasks when the server stops.
    #[must_use]
    pub fn drain(&self) -> Duration {
        Duration::from_secs_f64(self.drain_seconds)
    }

    /// How long a lease lives after each renewal.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_secs_f64(self.lease_seconds)
    }

    /// How long a rank may keep its group waiting.
    #[must_use]
    pub fn group_deadline(&self) -> Duration {
        Duration::from_secs_f64(self.group_deadline_seconds)
    }

    /// Whether this is a trainer that chooses how samples are given to ranks.
    #[must_use]
    pub fn chooses_placement(&self) -> bool {
        self.ranks * self.group_size > 1 && self.group_index == 0 && self.placement == PlacementWish::Auto
    }

    /// Whose word a coordinator takes for who people are; none: nobody's.
    ///
    /// # Errors
    /// [`Exit::Setting`] when an audience or the place of keys is set without an issuer, or that without an audience.
    pub fn oidc(&self) -> Result<Option<OidcOptions>, Failure> {
        match (&self.oidc_issuer, &self.oidc_audience) {
            (Some(issuer), Some(audience)) => Ok(Some(OidcOptions {
                issuer: issuer.clone(),
                audience: audience.clone(),
                jwks: self.oidc_jwks.clone(),
                tenant_claim: self.oidc_tenant_claim.clone(),
                role_claim: self.oidc_role_claim.clone(),
            })),
            (None, None) if self.oidc_jwks.is_none() => Ok(None),
            _part => Err(Failure::new(
                Exit::Setting,
                "oidc_issuer and oidc_audience are set together or not at all, and oidc_jwks only with them",
            )),
        }
    }

    fn check(&self) -> Result<(), Failure> {
        for endpoint in self.metrics_otlp_endpoint.iter().chain(&self.tracing_otlp_endpoint) {
            collector_url(endpoint)?;
        }
        within("max_connections", self.max_connections as f64, 4.0, 1e6)?;
        within("retry_seconds", self.retry_seconds, 0.0, 86_400.0)?;
        within("drain_seconds", self.drain_seconds, 0.0, 3_600.0)?;
        within("lease_seconds", self.lease_seconds, 1.0, 3_600.0)?;
        within("attempts", f64::from(self.attempts), 1.0, 100.0)?;
        within("threads", self.threads as f64, 0.0, 4_096.0)?;
        within("trainer_slots", self.trainer_slots.unwrap_or(1) as f64, 1.0, 1_024.0)?;
        within("ranks", self.ranks as f64, 1.0, 64.0)?;
        within("group_size", self.group_size as f64, 1.0, 1_024.0)?;
        within("group_deadline_seconds", self.group_deadline_seconds, 0.1, 3_600.0)?;
        within("memory_budget", self.memory_budget.unwrap_or(1) as f64, 1.0, 1e9)?;
        within("sampler_slots", self.sampler_slots as f64, 1.0, 1_024.0)
    }
}

fn collector_url(endpoint: &str) -> Result<(), Failure> {
    let known = endpoint.starts_with("http://") || endpoint.starts_with("https://");
    if known && endpoint.parse::<tonic::transport::Uri>().is_ok_and(|url| url.host().is_some()) {
        return Ok(());
    }
    let message = format!("the collector `{endpoint}` is not accepted; http://HOST:PORT and https://HOST:PORT are");
    Err(Failure::new(Exit::Setting, message))
}

fn absent(error: config::ConfigError) -> Result<Option<String>, config::ConfigError> {
    matches!(error, config::ConfigError::NotFound(_)).then_some(None).ok_or(error)
}

fn within(key: &str, value: f64, least: f64, most: f64) -> Result<(), Failure> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Failure::new(Exit::Setting, format!("the setting {key} is {value}; {least} to {most} is accepted")))
}

#[cfg(test)]
mod tests;
