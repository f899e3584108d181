//! TLS: the one provider of cryptography of this process, and the files of keys and certificates.

use crate::exit::{Exit, Failure};
use crate::renewed::{Files, read};
use crate::settings::Settings;
use likeness_coordinator::{LatestTls, Tls, WorkerCertificates};
use tokio::sync::watch;
use tonic::transport::Identity;

/// TLS of a server as files say it, which may be replaced while it serves.
pub struct ServerTls {
    files: Files,
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
        let server = Self { files, trust_domain: trust_domain.clone() };
        server.tls()?;
        Ok(Some(server))
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
        let (chain, key) = (held("tls_cert").unwrap_or_default(), held("tls_key").unwrap_or_default());
        Tls::new(chain, key, workers).map_err(|error| refuse(&error))
    }

    /// What the files say, now and whenever they are replaced while somebody listens. What cannot be used is warned of, and what was
    /// before stays.
    ///
    /// # Errors
    /// [`Exit::Setting`] for what cannot be used from the first.
    pub(crate) fn follow(mut self) -> Result<LatestTls, Failure> {
        let (sender, latest) = watch::channel(self.tls()?);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = sender.closed() => return,
                    () = self.files.changed() => {}
                }
                match self.tls() {
                    Ok(tls) => {
                        tracing::info!("certificates were replaced");
                        sender.send_replace(tls);
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
