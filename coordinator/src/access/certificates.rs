//! Certificates of workers. A worker's is signed by an authority of the fleet and names it in a URI, as SPIFFE does:
//! `spiffe://TRUST-DOMAIN/likeness/trainer/NAME`, `…/sampler/NAME`, or `…/worker/NAME` for one that may be either.

use std::sync::Arc;
use std::time::Duration;

use likeness_proto::{ErrorCode, Refusal, Role, TaskKind};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use webpki::EndEntityCert;

use super::{Access, unauthenticated};
use crate::audit::Actor;
use crate::clock::Timestamp;

const SCHEME: &str = "spiffe://";
/// Characters of a worker's name.
const LONGEST_NAME: usize = 200;

/// The authorities that sign certificates of workers, and the trust domain that these are of.
#[derive(Clone, Debug)]
pub struct WorkerCertificates {
    trust_domain: String,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// The worker that a certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedWorker {
    /// Its name, which no other has.
    pub name: String,
    /// What it may do.
    pub trade: Trade,
}

/// What a certificate lets its worker do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trade {
    /// `worker`: the tasks of both, but nothing in a group of trainers.
    Any,
    /// `trainer`.
    Trainer,
    /// `sampler`.
    Sampler,
}

impl Trade {
    const ALL: [Self; 3] = [Self::Any, Self::Trainer, Self::Sampler];

    /// As certificates say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "worker",
            Self::Trainer => "trainer",
            Self::Sampler => "sampler",
        }
    }

    fn does(self, kind: TaskKind) -> bool {
        match kind {
            TaskKind::Train => self != Self::Sampler,
            TaskKind::Preview | TaskKind::Render | TaskKind::Assemble => self != Self::Trainer,
        }
    }

    /// Refuses a worker that asks for tasks that are not of its trade.
    pub(crate) fn check(self, kinds: &[TaskKind]) -> Result<(), Refusal> {
        let Some(kind) = kinds.iter().find(|kind| !self.does(**kind)) else { return Ok(()) };
        let message = format!("the certificate is of a {}, which does no {kind} tasks", self.as_str());
        Err(Refusal::new(ErrorCode::Forbidden, message))
    }
}

/// Why workers cannot be known by certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// What is no bundle of certificates.
    #[error("the authorities of workers cannot be read: {0}; accepted is one certificate or more, as PEM")]
    Authorities(String),
    /// What is no bundle of revocation lists.
    #[error("the certificates that are revoked cannot be read: {0}; accepted is one list or more (CRL), as PEM")]
    Revoked(String),
    /// What is no trust domain.
    #[error("{0:?} is no trust domain; accepted are 1 to 255 of a-z, 0-9, `.`, `-` and `_`")]
    TrustDomain(String),
}

impl WorkerCertificates {
    /// Workers whose certificates an authority of `authorities` signed for `trust_domain`, and which it did not revoke: where `revoked` is
    /// given, it holds a list of each authority, and a certificate that no list speaks for is refused. All are PEM.
    ///
    /// # Errors
    /// When `authorities` or `revoked` hold nothing, or what is damaged, and when `trust_domain` is none.
    pub fn new(authorities: &[u8], revoked: Option<&[u8]>, trust_domain: &str) -> Result<Self, CertificatesError> {
        let is_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if !(1..=255).contains(&trust_domain.len()) || !trust_domain.bytes().all(is_domain) {
            return Err(CertificatesError::TrustDomain(trust_domain.to_owned()));
        }
        let refuse = |error: &dyn ToString| CertificatesError::Authorities(error.to_string());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authorities) {
            roots.add(certificate.map_err(|error| refuse(&error))?).map_err(|error| refuse(&error))?;
        }
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        // Who has none may still come with a token.
        let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), ring).allow_unauthenticated();
        if let Some(revoked) = revoked {
            verifier = verifier.with_crls(lists(revoked)?).only_check_end_entity_revocation();
        }
        let verifier = verifier.build().map_err(|error| refuse(&error))?;
        Ok(Self { trust_domain: trust_domain.to_owned(), verifier })
    }

    /// Takes callers who show such a certificate, or none.
    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.verifier)
    }

    /// What the certificate of a connection opens at `now`; its chain follows it. It was checked when the connection was made, and
    /// is again at every call, since a connection may outlive a certificate.
    pub(super) fn open(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<Access, Refusal> {
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now.millis().try_into().unwrap_or(0)));
        let worker = self.named(chain, now)?;
        let actor = Actor::worker(&worker.name);
        Ok(Access { tenant: None, roles: vec![Role::Worker], worker: Some(worker), actor })
    }

    /// The worker that the certificate of a connection names at `now`; its chain follows it.
    ///
    /// # Errors
    /// [`ErrorCode::Unauthenticated`] where there is none, or not such a one.
    pub fn named(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<NamedWorker, Refusal> {
        let (own, rest) = chain.split_first().ok_or_else(|| unauthenticated("the connection has no certificate"))?;
        let refuse = |error: &dyn ToString| {
            unauthenticated(format!("the certificate is not accepted: {}; connect with a valid one", error.to_string()))
        };
        self.verifier.verify_client_cert(own, rest, now).map_err(|error| refuse(&error))?;
        let certificate = EndEntityCert::try_from(own).map_err(|error| refuse(&error))?;
        let names: Vec<&str> = certificate.valid_uri_names().collect();
        let worker = if let [name] = names[..] { self.worker(name) } else { None };
        let (trade, name) = worker.ok_or_else(|| unauthenticated(self.accepted(&names)))?;
        Ok(NamedWorker { name: name.to_owned(), trade })
    }

    /// The worker that a URI names, if it is one of this trust domain.
    fn worker<'a>(&self, uri: &'a str) -> Option<(Trade, &'a str)> {
        let (domain, path) = uri.strip_prefix(SCHEME)?.split_once('/')?;
        let (trade, name) = path.strip_prefix("likeness/")?.split_once('/')?;
        let trade = Trade::ALL.into_iter().find(|known| known.as_str() == trade)?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let named =
            (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(is_name) && ![".", ".."].contains(&name);
        (domain == self.trust_domain && named).then_some((trade, name))
    }

    fn accepted(&self, names: &[&str]) -> String {
        let domain = &self.trust_domain;
        let has = match names {
            [] => "no URI".to_owned(),
            names => names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" and "),
        };
        format!(
            "the certificate names {has}; accepted is one URI alone, {SCHEME}{domain}/likeness/worker/NAME, or trainer or sampler in \
             place of worker"
        )
    }
}

fn lists(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, CertificatesError> {
    let refuse = |error: &dyn ToString| CertificatesError::Revoked(error.to_string());
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    let lists = lists.map_err(|error| refuse(&error))?;
    if lists.is_empty() { Err(refuse(&"there is none")) } else { Ok(lists) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_named_by_a_uri_of_the_trust_domain() {
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
        let certificates = WorkerCertificates::new(authority.pem().as_bytes(), None, "fleet.example").unwrap();
        for trade in Trade::ALL {
            let uri = format!("spiffe://fleet.example/likeness/{}/node-1.a_b", trade.as_str());
            assert_eq!(certificates.worker(&uri), Some((trade, "node-1.a_b")));
        }
        let long = format!("spiffe://fleet.example/likeness/worker/{}", "a".repeat(LONGEST_NAME + 1));
        for uri in [
            "",
            "spiffe://",
            "spiffe://fleet.example",
            "spiffe://fleet.example/likeness/worker",
            "spiffe://fleet.example/likeness/worker/",
            "spiffe://fleet.example/likeness/worker/..",
            "spiffe://fleet.example/likeness/worker/a/b",
            "spiffe://fleet.example/likeness/worker/a?b",
            "spiffe://fleet.example/likeness/admin/a",
            "spiffe://fleet.example//likeness/worker/a",
            "spiffe://fleet.example.org/likeness/worker/a",
            "spiffe://FLEET.example/likeness/worker/a",
            "https://fleet.example/likeness/worker/a",
            &long,
        ] {
            assert_eq!(certificates.worker(uri), None, "{uri}");
        }
    }

    #[test]
    fn a_worker_has_tasks_of_its_trade_alone() {
        use TaskKind::{Assemble, Preview, Render, Train};
        for (trade, kinds, may) in [
            (Trade::Any, &[Train, Preview, Render, Assemble][..], true),
            (Trade::Trainer, &[Train], true),
            (Trade::Trainer, &[Train, Render], false),
            (Trade::Sampler, &[Preview, Render, Assemble], true),
            (Trade::Sampler, &[Train], false),
        ] {
            assert_eq!(trade.check(kinds).is_ok(), may, "{trade:?} {kinds:?}");
        }
    }

    #[test]
    fn what_is_no_authority_or_no_domain_is_refused() {
        let refused =
            |pem: &str, domain: &str| WorkerCertificates::new(pem.as_bytes(), None, domain).unwrap_err().to_string();
        assert!(refused("", "fleet.example").contains("accepted is one certificate or more"));
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(refused(damaged, "fleet.example").contains("cannot be read"));
        for domain in ["", "Fleet", "a/b", "a b", "fleet.example/"] {
            assert!(refused(damaged, domain).contains("is no trust domain"), "{domain}");
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap().pem();
        for revoked in ["", &authority, damaged] {
            let made = WorkerCertificates::new(authority.as_bytes(), Some(revoked.as_bytes()), "fleet.example");
            assert!(made.unwrap_err().to_string().contains("accepted is one list or more"), "{revoked}");
        }
    }
}
