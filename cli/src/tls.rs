//! TLS: the one provider of cryptography of this process, and the files of keys and certificates.

use crate::exit::{Exit, Failure};
use crate::settings::Settings;
use likeness_coordinator::WorkerCertificates;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use tonic::transport::{Identity, ServerTlsConfig};

/// How a server speaks to its callers; `None`: in the clear, since no certificate is set.
///
/// # Errors
/// [`Exit::Setting`] when one of certificate and key is missing or cannot be read.
pub fn of_server(settings: &Settings) -> Result<Option<ServerTlsConfig>, Failure> {
    match (&settings.tls_cert, &settings.tls_key) {
        (Some(cert), Some(key)) => {
            let identity = Identity::from_pem(pem("tls_cert", cert)?, pem("tls_key", key)?);
            Ok(Some(ServerTlsConfig::new().identity(identity)))
        }
        (None, None) => Ok(None),
        _one => Err(Failure::new(Exit::Setting, "tls_cert and tls_key are set together or not at all")),
    }
}

/// The same for browsers, who speak HTTP/1.1.
///
/// # Errors
/// As [`of_server`], and [`Exit::Setting`] when certificate and key do not go together.
pub fn of_page(settings: &Settings) -> Result<Option<Arc<ServerConfig>>, Failure> {
    let (Some(cert), Some(key)) = (&settings.tls_cert, &settings.tls_key) else {
        return of_server(settings).map(|_| None);
    };
    let refuse = |error: &dyn ToString| {
        let (cert, key, error) = (cert.display(), key.display(), error.to_string());
        Failure::new(
            Exit::Setting,
            format!("{cert} and {key}, which tls_cert and tls_key name, cannot be used: {error}"),
        )
    };
    let chain = CertificateDer::pem_slice_iter(&pem("tls_cert", cert)?).collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_slice(&pem("tls_key", key)?);
    let (chain, key) = (chain.map_err(|error| refuse(&error))?, key.map_err(|error| refuse(&error))?);
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(ring).with_safe_default_protocol_versions();
    let config = config.and_then(|config| config.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(|error| refuse(&error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}

/// How a coordinator knows workers by their certificates; `None`: it does not, since no authority is set.
///
/// # Errors
/// [`Exit::Setting`] when authority and trust domain are not set together, without TLS, and when they are none.
pub fn worker_certificates(settings: &Settings) -> Result<Option<WorkerCertificates>, Failure> {
    let refuse = |message: String| Failure::new(Exit::Setting, message);
    match (&settings.tls_client_ca, &settings.trust_domain) {
        (Some(_), Some(_)) if settings.tls_cert.is_none() => {
            Err(refuse("tls_client_ca needs TLS; set tls_cert and tls_key as well".to_owned()))
        }
        (Some(authority), Some(domain)) => {
            let certificates = WorkerCertificates::new(pem("tls_client_ca", authority)?, domain);
            certificates.map(Some).map_err(|error| refuse(error.to_string()))
        }
        (None, None) => Ok(None),
        _one => Err(refuse("tls_client_ca and trust_domain are set together or not at all".to_owned())),
    }
}

/// What a worker shows of itself; `None`: no certificate is set.
///
/// # Errors
/// [`Exit::Setting`] when one of certificate and key is missing or cannot be read.
pub fn of_worker(settings: &Settings) -> Result<Option<Identity>, Failure> {
    match (&settings.tls_client_cert, &settings.tls_client_key) {
        (Some(cert), Some(key)) => {
            Ok(Some(Identity::from_pem(pem("tls_client_cert", cert)?, pem("tls_client_key", key)?)))
        }
        (None, None) => Ok(None),
        _one => Err(Failure::new(Exit::Setting, "tls_client_cert and tls_client_key are set together or not at all")),
    }
}

/// What the file of a setting holds.
///
/// # Errors
/// [`Exit::Setting`] when it cannot be read.
pub(crate) fn pem(setting: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        Failure::new(Exit::Setting, format!("cannot read {}, which {setting} names: {error}", path.display()))
    })
}

/// Makes ring the provider of every TLS connection. Said again, it changes nothing.
pub fn install_provider() {
    // Fails only when there is one already, which is this one.
    let _there = rustls::crypto::ring::default_provider().install_default();
}
