//! Stands before every service: no call gets past without room for it and a credential whose role may make it, none takes longer than
//! its deadline, and no stream outlives its credential.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use likeness_proto::Refusal;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

use super::gate::Caller;
use super::table::{self, Shape};
use super::watched::{self, Watched};
use super::{Gate, unauthenticated};
use crate::limits::{Limits, Peer, Turnstile, deadline};
use crate::store::Store;

/// What all guards share.
pub(crate) struct Post<S> {
    gate: Arc<Gate<S>>,
    turnstile: Turnstile,
}

impl<S: Store> Post<S> {
    pub(crate) fn new(gate: Arc<Gate<S>>) -> Arc<Self> {
        let turnstile = Turnstile::new(&gate.shared.limits);
        Arc::new(Self { gate, turnstile })
    }

    /// A service behind this post.
    pub(crate) fn guard<I>(self: &Arc<Self>, inner: I) -> Guard<S, I> {
        Guard { post: Arc::clone(self), inner }
    }
}

/// A service that is guarded.
pub(crate) struct Guard<S, I> {
    post: Arc<Post<S>>,
    inner: I,
}

impl<S, I: Clone> Clone for Guard<S, I> {
    fn clone(&self) -> Self {
        Self { post: Arc::clone(&self.post), inner: self.inner.clone() }
    }
}

impl<S, I: NamedService> NamedService for Guard<S, I> {
    const NAME: &'static str = I::NAME;
}

impl<S, I> Service<Request<Body>> for Guard<S, I>
where
    S: Store,
    I: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    I::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let post = Arc::clone(&self.post);
        // The one that is ready serves this call; its copy gets ready for the next.
        let copy = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, copy);
        // Here and not in the future, so that it is not later than the transport's own, which answers with another code.
        let now = Instant::now();
        Box::pin(async move { Ok(post.pass(request, inner, now).await.unwrap_or_else(Status::into_http)) })
    }
}

impl<S: Store> Post<S> {
    fn limits(&self) -> &Limits {
        &self.gate.shared.limits
    }

    async fn pass<I>(
        self: Arc<Self>,
        request: Request<Body>,
        mut inner: I,
        now: Instant,
    ) -> Result<Response<Body>, Status>
    where
        I: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let Peer { connection, .. } =
            request.extensions().get().ok_or_else(|| unauthenticated("the call has no connection"))?;
        let mut call = connection.begin();
        let (caller, request) = (Caller::of(&request), call.hear(request));
        let (_, shape) = table::method(&caller.path);
        let (room, granted) = match shape {
            Shape::Unary => (self.turnstile.call(), Some(self.limits().call)),
            Shape::Upload | Shape::Download => (self.turnstile.stream(), None),
        };
        let due = deadline(request.headers(), granted, now);
        let answer = async {
            let room = room?;
            let request = self.admitted(request, &caller, shape).await?;
            let Ok(response) = inner.call(request).await;
            Ok::<_, Status>((response, room))
        };
        let answer = match due {
            Some(due) => timeout_at(due, answer).await.unwrap_or_else(|_late| Err(watched::late(now, due))),
            None => answer.await,
        };
        call.answered();
        let (response, room) = answer?;
        Ok(match shape {
            Shape::Unary | Shape::Upload => response,
            Shape::Download => {
                let end =
                    watched::end(Arc::clone(&self.gate), caller, self.limits().recheck, due.map(|due| (now, due)));
                response.map(|body| Body::new(Watched::down(body, end, (room, call))))
            }
        })
    }

    /// The request, with what its caller may do; its stream ends when the caller may no longer.
    async fn admitted(
        &self,
        mut request: Request<Body>,
        caller: &Caller,
        shape: Shape,
    ) -> Result<Request<Body>, Refusal> {
        let access = self.gate.admit(caller).await?;
        request.extensions_mut().insert(access);
        Ok(match shape {
            Shape::Unary | Shape::Download => request,
            Shape::Upload => {
                let end = watched::end(Arc::clone(&self.gate), caller.clone(), self.limits().recheck, None);
                request.map(|body| Body::new(Watched::up(body, end)))
            }
        })
    }
}
