//! TLS: the one provider of cryptography of this process, and the files of keys and certificates.

use crate::exit::{Exit, Failure};
use crate::settings::Settings;
use std::path::Path;
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
