//! Lets in who knows the token, or shows a certificate that is accepted.

use std::fmt::Debug;
use std::sync::Arc;

use likeness_proto::{ErrorCode, Refusal, Secret, Sha256};
use rustls::{ServerConfig, pki_types::CertificateDer};
use subtle::ConstantTimeEq;
use tonic::{Request, Status, service::Interceptor};
use tracing::warn;

/// How ranks of other processes are spoken to, and which of them may join.
#[derive(Clone, Debug)]
pub enum Admission {
    /// In the clear; who presents it.
    Token(Secret),
    /// By TLS; whose certificate is accepted.
    Certificates(Arc<dyn Certificates>),
}

/// What a leader shows of itself, and whom it lets join. May be other ones from one connection to the next.
pub trait Certificates: Debug + Send + Sync {
    /// How a connection that begins is spoken to. It speaks `h2` and asks for a certificate.
    fn handshake(&self) -> Arc<ServerConfig>;

    /// Whether who shows this chain, its own certificate first, may join.
    ///
    /// # Errors
    /// Why not.
    fn admit(&self, chain: &[CertificateDer<'_>]) -> Result<(), Refusal>;
}

/// Stands before every call.
#[derive(Clone, Debug)]
pub(super) enum Door {
    /// The digest of the one token.
    Token(Sha256),
    Certificates(Arc<dyn Certificates>),
}

impl Door {
    pub(super) fn new(admission: &Admission) -> Self {
        match admission {
            Admission::Token(token) => Self::Token(Sha256::of(token.expose().as_bytes())),
            Admission::Certificates(certificates) => Self::Certificates(Arc::clone(certificates)),
        }
    }
}

/// Takes as long for a wrong token as for the right one.
fn opens(own: &Sha256, header: Option<&str>) -> bool {
    let token = header.and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default();
    let presented = Sha256::of(token.as_bytes());
    own.as_bytes().ct_eq(presented.as_bytes()).into()
}

impl Interceptor for Door {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        match self {
            Self::Token(own) => {
                let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
                if !opens(own, header) {
                    let message = "the token is not the group leader's; give all trainers of a group the same one";
                    return Err(Refusal::new(ErrorCode::Unauthenticated, message).into());
                }
            }
            Self::Certificates(certificates) => {
                let chain = request.peer_certs().unwrap_or_default();
                certificates.admit(&chain).inspect_err(|refusal| warn!(%refusal, "rank refused"))?;
            }
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_enters_without_the_right_token() {
        let own = Sha256::of(b"right");
        assert!(opens(&own, Some("Bearer right")));
        for header in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Bearer wrong"), Some("right")] {
            assert!(!opens(&own, header), "{header:?}");
        }
    }
}
