//! Stands before every service: no call gets past without a credential whose role may make it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use likeness_proto::{ErrorCode, Refusal};
use tonic::Status;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

use super::{Access, Pepper, Tokens, keys, table, unauthenticated};
use crate::audit::Actor;
use crate::service::Shared;
use crate::store::Store;

/// Knows credentials and what they open.
pub(crate) struct Gate<S> {
    pub(crate) tokens: Tokens,
    pub(crate) pepper: Pepper,
    pub(crate) shared: Arc<Shared<S>>,
}

impl<S: Store> Gate<S> {
    /// What the caller of `path` may do, if it may call that.
    pub(super) async fn admit(&self, path: &str, headers: &HeaderMap) -> Result<Access, Refusal> {
        let access = self.identify(headers).await?;
        let roles = table::roles(path);
        if access.roles.iter().any(|role| roles.contains(role)) {
            return Ok(access);
        }
        let names =
            |roles: &[likeness_proto::Role]| roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" or ");
        let needed = if roles.is_empty() { "no role may".to_owned() } else { format!("it takes {}", names(roles)) };
        let message = format!("the credential's role ({}) may not call {path}; {needed}", names(&access.roles));
        Err(Refusal::new(ErrorCode::Forbidden, message))
    }

    async fn identify(&self, headers: &HeaderMap) -> Result<Access, Refusal> {
        let header = headers.get("authorization").and_then(|value| value.to_str().ok());
        let header =
            header.ok_or_else(|| unauthenticated("the call carries no token; send `authorization: Bearer TOKEN`"))?;
        let token = header.strip_prefix("Bearer ").unwrap_or_default();
        if let Some(access) = self.tokens.open(token) {
            return Ok(access.clone());
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
        });
        known.ok_or_else(|| {
            unauthenticated("the token is not known here, was revoked or has expired; use the one in the server's state folder, or a key")
        })
    }
}

/// A service behind a gate.
pub(crate) struct Guard<S, I> {
    gate: Arc<Gate<S>>,
    inner: I,
}

impl<S, I> Guard<S, I> {
    pub(crate) fn new(gate: &Arc<Gate<S>>, inner: I) -> Self {
        Self { gate: Arc::clone(gate), inner }
    }
}

impl<S, I: Clone> Clone for Guard<S, I> {
    fn clone(&self) -> Self {
        Self { gate: Arc::clone(&self.gate), inner: self.inner.clone() }
    }
}

impl<S, I: NamedService> NamedService for Guard<S, I> {
    const NAME: &'static str = I::NAME;
}

impl<S, I, B> Service<Request<B>> for Guard<S, I>
where
    S: Store,
    I: Service<Request<B>, Response = Response<tonic::body::Body>, Error = Infallible> + Clone + Send + 'static,
    I::Future: Send,
    B: Send + 'static,
{
    type Response = I::Response;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let gate = Arc::clone(&self.gate);
        // The one that is ready serves this call; its copy gets ready for the next.
        let copy = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, copy);
        Box::pin(async move {
            match gate.admit(request.uri().path(), request.headers()).await {
                Ok(access) => {
                    request.extensions_mut().insert(access);
                    inner.call(request).await
                }
                Err(refusal) => Ok(Status::from(refusal).into_http()),
            }
        })
    }
}
