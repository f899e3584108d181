//! TLS: the one provider of cryptography of this process, and the files of keys and certificates.

use crate::exit::{Exit, Failure};
use crate::renewed::{Files, read};
use crate::settings::Settings;
use likeness_coordinator::{LatestTls, Tls, WorkerCertificates};
use tokio::sync::watch;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// TLS of a server as files say it, which may be replaced while it serves.
#[derive(Clone)]
pub struct ServerTls {
    files: Files,
    /// The settings that name its own certificate and key.
    own: [&'static str; 2],
    trust_domain: Option<String>,
}

impl ServerTls {
    /// As the settings say; `None`: in the clear, since no certificate is set.
    ///
    /// # Errors
    /// [`Exit::Setting`] for settings without the others that they need, and files that cannot be read.
    pub fn of(settings: &Settings) -> Result<Option<Self>, Failure> {
        let Settings { tls_cert, tls_key, tls_client_ca, tls_client_crl, trust_domain, .. } = settings;
        let refuse = |message: &str| Err(Failure::new(Exit::Setting, message));
        if tls_cert.is_some() != tls_key.is_some() {
            return refuse("tls_cert and tls_key are set together or not at all");
        }
        if tls_client_ca.is_some() != trust_domain.is_some() {
            return refuse("tls_client_ca and trust_domain are set together or not at all");
        }
        if tls_client_crl.is_some() && tls_client_ca.is_none() {
            return refuse("tls_client_crl needs those whose lists it holds; set tls_client_ca as well");
        }
        if tls_cert.is_none() {
            let none = tls_client_ca.is_none();
            return if none { Ok(None) } else { refuse("tls_client_ca needs TLS; set tls_cert and tls_key as well") };
        }
        let files = Files::read([
            ("tls_cert", tls_cert.as_ref()),
            ("tls_key", tls_key.as_ref()),
            ("tls_client_ca", tls_client_ca.as_ref()),
            ("tls_client_crl", tls_client_crl.as_ref()),
        ])?;
        let server = Self { files, own: ["tls_cert", "tls_key"], trust_domain: trust_domain.clone() };
        server.tls()?;
        Ok(Some(server))
    }

    /// Of a group of trainers, each of which shows the others its certificate of a worker, whoever of them listens; `None`: the settings
    /// do not name all that it takes.
    ///
    /// # Errors
    /// [`Exit::Setting`] for files that cannot be read, or hold something else.
    pub(crate) fn of_group(settings: &Settings) -> Result<Option<Self>, Failure> {
        let Settings { tls_client_cert, tls_client_key, tls_client_ca, tls_client_crl, trust_domain, .. } = settings;
        if [tls_client_cert, tls_client_key, tls_client_ca].iter().any(|file| file.is_none()) || trust_domain.is_none()
        {
            return Ok(None);
        }
        let files = Files::read([
            ("tls_client_cert", tls_client_cert.as_ref()),
            ("tls_client_key", tls_client_key.as_ref()),
            ("tls_client_ca", tls_client_ca.as_ref()),
            ("tls_client_crl", tls_client_crl.as_ref()),
        ])?;
        let group = Self { files, own: ["tls_client_cert", "tls_client_key"], trust_domain: trust_domain.clone() };
        group.tls()?;
        Ok(Some(group))
    }

    /// The way to another node of the group, at `HOST:PORT`, whose certificate must be of that host and from the same authority.
    pub(crate) fn way(&self, node: &str) -> Result<Endpoint, Failure> {
        let [chain, key] = self.own.map(|setting| self.files.get(setting).unwrap_or_default());
        let authority = Certificate::from_pem(self.files.get("tls_client_ca").unwrap_or_default());
        let tls = ClientTlsConfig::new().ca_certificate(authority).identity(Identity::from_pem(chain, key));
        let endpoint = Endpoint::from_shared(format!("https://{node}")).map_err(Failure::unexpected)?;
        endpoint.tls_config(tls).map_err(|error| Failure::new(Exit::Setting, error.to_string()))
    }

    fn tls(&self) -> Result<Tls, Failure> {
        let refuse = |error: &dyn ToString| Failure::new(Exit::Setting, error.to_string());
        let held = |setting| self.files.get(setting);
        let workers = match (held("tls_client_ca"), &self.trust_domain) {
            (Some(authorities), Some(domain)) => {
                let workers = WorkerCertificates::new(authorities, held("tls_client_crl"), domain);
                Some(workers.map_err(|error| refuse(&error))?)
            }
            _none => None,
        };
        let [chain, key] = self.own.map(|setting| held(setting).unwrap_or_default());
        Tls::new(chain, key, workers).map_err(|error| refuse(&error))
    }

    /// What a server needs of the files, now and whenever they are replaced.
    ///
    /// # Errors
    /// [`Exit::Setting`] for what cannot be used from the first.
    pub(crate) fn follow(self) -> Result<LatestTls, Failure> {
        self.follow_as(Self::tls)
    }

    /// What `read` makes of the files, now and whenever they are replaced while somebody listens. What cannot be used is warned of, and what
    /// was before stays.
    ///
    /// # Errors
    /// What `read` says from the first.
    pub(crate) fn follow_as<T: Send + Sync + 'static>(
        mut self,
        read: impl Fn(&Self) -> Result<T, Failure> + Send + 'static,
    ) -> Result<watch::Receiver<T>, Failure> {
        let (sender, latest) = watch::channel(read(&self)?);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = sender.closed() => return,
                    () = self.files.changed() => {}
                }
                match read(&self) {
                    Ok(now) => {
                        tracing::info!("certificates were replaced");
                        sender.send_replace(now);
                    }
                    Err(failure) => tracing::warn!(%failure, "certificates were replaced by what is not used"),
                }
            }
        });
        Ok(latest)
    }
}

/// What a worker shows of itself; `None`: no certificate is set.
///
/// # Errors
/// [`Exit::Setting`] when one of certificate and key is missing or cannot be read.
pub fn of_worker(settings: &Settings) -> Result<Option<Identity>, Failure> {
    match (&settings.tls_client_cert, &settings.tls_client_key) {
        (Some(cert), Some(key)) => {
            Ok(Some(Identity::from_pem(read("tls_client_cert", cert)?, read("tls_client_key", key)?)))
        }
        (None, None) => Ok(None),
        _one => Err(Failure::new(Exit::Setting, "tls_client_cert and tls_client_key are set together or not at all")),
    }
}

/// Makes ring the provider of every TLS connection. Said again, it changes nothing.
pub fn install_provider() {
    // Fails only when there is one already, which is this one.
    let _there = rustls::crypto::ring::default_provider().install_default();
}
