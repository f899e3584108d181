//! TLS of a coordinator: what it shows of itself, and whom it asks for a certificate. May be replaced while it serves.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

use super::WorkerCertificates;

/// What a coordinator shows of itself, and which workers it knows by their certificates.
#[derive(Clone, Debug)]
pub struct Tls {
    calls: Arc<ServerConfig>,
    pages: Arc<ServerConfig>,
    workers: Option<WorkerCertificates>,
}

/// The latest of them: it speaks to connections that begin, and judges every call.
pub type LatestTls = watch::Receiver<Tls>;

/// Certificate and key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server's certificate and key cannot be used: {0}; accepted are a chain and its first certificate's key, as PEM"
)]
pub struct TlsError(String);

impl Tls {
    /// Shows `chain`, whose first certificate's key is `key`, both PEM. Callers may show a certificate of `workers` where there are some.
    ///
    /// # Errors
    /// For what is no certificate or key, and a key of another certificate.
    pub fn new(chain: &[u8], key: &[u8], workers: Option<WorkerCertificates>) -> Result<Self, TlsError> {
        let refuse = |error: &dyn ToString| TlsError(error.to_string());
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(|error| refuse(&error))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| refuse(&error))?;
        let speaking = |protocol: &[u8], workers: Option<&WorkerCertificates>| {
            let ring = Arc::new(rustls::crypto::ring::default_provider());
            let config = ServerConfig::builder_with_provider(ring).with_safe_default_protocol_versions()?;
            let config = match workers {
                Some(workers) => config.with_client_cert_verifier(workers.verifier()),
                None => config.with_no_client_auth(),
            };
            let mut config = config.with_single_cert(chain.clone(), key.clone_key())?;
            config.alpn_protocols = vec![protocol.to_vec()];
            Ok::<_, rustls::Error>(Arc::new(config))
        };
        let calls = speaking(b"h2", workers.as_ref()).map_err(|error| refuse(&error))?;
        let pages = speaking(b"http/1.1", None).map_err(|error| refuse(&error))?;
        Ok(Self { calls, pages, workers })
    }

    /// How callers are spoken to.
    #[must_use]
    pub fn calls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.calls)
    }

    /// Which workers are known by their certificates.
    #[must_use]
    pub fn workers(&self) -> Option<&WorkerCertificates> {
        self.workers.as_ref()
    }

    /// How browsers are spoken to.
    pub(crate) fn pages(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let [one, other] = [(); 2].map(|()| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
        let made = |key: &str| Tls::new(one.cert.pem().as_bytes(), key.as_bytes(), None);
        made(&one.signing_key.serialize_pem()).unwrap();
        for key in [other.signing_key.serialize_pem(), one.cert.pem(), String::new()] {
            assert!(made(&key).unwrap_err().to_string().contains("cannot be used"), "{key}");
        }
    }
}
