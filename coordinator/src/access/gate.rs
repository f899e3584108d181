//! Turns a credential into what it opens: the one place that does.

use std::sync::Arc;

use likeness_proto::{ErrorCode, Refusal, Role, Secret};
use rustls::pki_types::CertificateDer;
use tonic::codegen::http::{HeaderValue, Request};

use super::{Access, LatestTls, Oidc, Pepper, Tokens, WorkerCertificates, keys, table, unauthenticated};
use crate::audit::Actor;
use crate::clock::Clock;
use crate::limits::Peer;
use crate::service::Shared;
use crate::store::Store;

/// Knows credentials and what they open.
pub(crate) struct Gate<S> {
    pub(crate) tokens: Tokens,
    pub(crate) pepper: Pepper,
    pub(crate) shared: Arc<Shared<S>>,
    /// How workers are known without a token.
    pub(crate) tls: Option<LatestTls>,
    /// Whose word is taken for who people are.
    pub(crate) people: Option<Oidc>,
    /// Tells whether a certificate or a token of somebody else's has expired.
    pub(crate) clock: Arc<dyn Clock>,
}

/// What is called, and what the caller shows. Never shown itself.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(super) path: String,
    authorization: Option<HeaderValue>,
    chain: Option<Arc<Vec<CertificateDer<'static>>>>,
}

impl Caller {
    /// Who shows `token` to call the method `path`.
    pub(crate) fn with(token: &Secret, path: &str) -> Self {
        let mut header =
            HeaderValue::try_from(format!("Bearer {}", token.expose())).expect("a secret is visible ASCII");
        header.set_sensitive(true);
        Self { path: path.to_owned(), authorization: Some(header), chain: None }
    }

    pub(super) fn of<B>(request: &Request<B>) -> Self {
        Self {
            path: request.uri().path().to_owned(),
            authorization: request.headers().get("authorization").cloned(),
            chain: request.extensions().get().and_then(|peer: &Peer| peer.chain.clone()),
        }
    }
}

impl<S: Store> Gate<S> {
    /// What the caller may do, if it may call that.
    pub(crate) async fn admit(&self, caller: &Caller) -> Result<Access, Refusal> {
        let access = self.identify(caller).await?;
        let (path, (roles, _)) = (&caller.path, table::method(&caller.path));
        if access.may(&caller.path) {
            return Ok(access);
        }
        let names = |roles: &[Role]| roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" or ");
        let needed = if roles.is_empty() { "no role may".to_owned() } else { format!("it takes {}", names(roles)) };
        let message = format!("the credential's role ({}) may not call {path}; {needed}", names(&access.roles));
        Err(Refusal::new(ErrorCode::Forbidden, message))
    }

    /// A token counts before a certificate, since it was put on this very call.
    async fn identify(&self, caller: &Caller) -> Result<Access, Refusal> {
        if let Some(header) = &caller.authorization {
            let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
            return self.open(token.unwrap_or_default()).await;
        }
        match (&caller.chain, self.workers()) {
            (Some(chain), Some(workers)) => workers.open(chain, self.clock.now()),
            (None, Some(_)) => Err(unauthenticated(
                "the call carries no token and its connection no certificate; send `authorization: Bearer TOKEN`, or connect with a \
                 worker's certificate",
            )),
            (_, None) => Err(unauthenticated("the call carries no token; send `authorization: Bearer TOKEN`")),
        }
    }

    fn workers(&self) -> Option<WorkerCertificates> {
        self.tls.as_ref().and_then(|tls| tls.borrow().workers().cloned())
    }

    async fn open(&self, token: &str) -> Result<Access, Refusal> {
        if let Some(access) = self.tokens.open(token) {
            return Ok(access.clone());
        }
        if let (Some(people), true) = (&self.people, Oidc::is_meant(token)) {
            let person = people.open(token, self.clock.now(), &self.shared.store.policy().blind).await?;
            return self.of_tenant(person).await;
        }
        // Looked up at every call, so that a key that is revoked opens nothing from then on.
        let key = match keys::prefix(token) {
            Some(prefix) => self.shared.store.live_key(prefix).await?,
            None => None,
        };
        let fits = self.pepper.fits(token, key.as_ref().map(|key| &key.hash));
        let known = key.filter(|_| fits).map(|key| Access {
            actor: Actor::key(&key.prefix),
            tenant: key.tenant,
            roles: vec![key.role],
            worker: None,
        });
        known.ok_or_else(|| {
            unauthenticated("the token is not known here, was revoked or has expired; use the one in the server's state folder, or a key")
        })
    }

    /// The same, if its tenant exists.
    async fn of_tenant(&self, access: Access) -> Result<Access, Refusal> {
        if let Some(tenant) = &access.tenant {
            self.shared.store.tenant(tenant).await.map_err(Refusal::from).map_err(|refusal| match refusal.code {
                ErrorCode::UnknownTenant => Refusal::new(ErrorCode::Forbidden, refusal.message),
                _other => refusal,
            })?;
        }
        Ok(access)
    }
}
