//! Calls between hosts: requests and answers that take their time, and may be lost, late, or come twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use tokio::sync::oneshot;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Bytes, Service};

use super::chance::{Chance, Kind};

/// Where an answer goes. Dropped, it is a connection that was reset.
pub(super) type Reply = oneshot::Sender<Response<Body>>;

/// What arrives.
pub(super) enum Parcel {
    /// For the coordinator of this number. Nobody waits for the answer to a copy.
    Request {
        to: usize,
        request: Request<Bytes>,
        reply: Option<Reply>,
    },
    Answer {
        reply: Reply,
        response: Response<Body>,
    },
}

pub(super) struct Network {
    chance: Arc<Chance>,
    coordinators: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    serial: u64,
    under_way: BTreeMap<(Duration, u64), Parcel>,
    /// Answers that never come, of connections that stay open.
    silence: Vec<Reply>,
    /// Hosts that are cut off, and until when.
    cut: BTreeMap<String, Duration>,
}

impl Network {
    pub(super) fn new(chance: Arc<Chance>, coordinators: usize) -> Self {
        Self { chance, coordinators, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing of this host gets through until then.
    pub(super) fn cut(&self, host: &str, until: Duration) {
        self.lock().cut.insert(host.to_owned(), until);
    }

    fn send(&self, delay: Duration, parcel: Parcel) {
        let arrives = self.chance.now() + delay;
        let mut inner = self.lock();
        inner.serial += 1;
        let serial = inner.serial;
        inner.under_way.insert((arrives, serial), parcel);
    }

    fn latency(&self, late: Kind) -> Duration {
        let usual = self.chance.millis(1, 40);
        if self.chance.strikes(late, 40) { usual + self.chance.millis(1000, 15_000) } else { usual }
    }

    /// What arrives now.
    pub(super) fn arrivals(&self) -> Vec<Parcel> {
        let now = self.chance.now();
        let mut inner = self.lock();
        let later = inner.under_way.split_off(&(now, u64::MAX));
        std::mem::replace(&mut inner.under_way, later).into_values().collect()
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.lock().under_way.is_empty()
    }

    /// Sends an answer on its way.
    pub(super) fn answer(&self, reply: Reply, response: Response<Body>) {
        if self.chance.strikes(Kind::AnswerLost, 40) {
            return self.lock().silence.push(reply);
        }
        if self.chance.strikes(Kind::ConnectionReset, 60) {
            return;
        }
        self.send(self.latency(Kind::AnswerLate), Parcel::Answer { reply, response });
    }

    /// Calls one of the coordinators, whichever it is.
    async fn call(&self, from: &str, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let request = Request::from_parts(head, body);
        let to = self.chance.below(self.coordinators as u64) as usize;
        self.chance.note(format_args!("{from} calls {} of coordinator-{to}", request.uri().path()));
        let (reply, answer) = oneshot::channel();
        if self.chance.strikes(Kind::RequestTwice, 20) {
            let copy = Parcel::Request { to, request: request.clone(), reply: None };
            self.send(self.chance.millis(10, 20_000), copy);
        }
        let is_cut = self.lock().cut.get(from).is_some_and(|until| *until > self.chance.now());
        if is_cut || self.chance.strikes(Kind::RequestLost, 40) {
            self.lock().silence.push(reply);
        } else {
            let delay = self.latency(Kind::RequestLate);
            self.send(delay, Parcel::Request { to, request, reply: Some(reply) });
        }
        answer.await.map_err(|_reset| Status::unavailable("connection reset"))
    }
}

/// The way from a host to the coordinators.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) network: Arc<Network>,
    pub(super) from: Arc<str>,
}

impl Service<Request<Body>> for Caller {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<Response<Body>, Status>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { network, from } = self.clone();
        Box::pin(async move { network.call(&from, request).await })
    }
}

/// The request as a server reads it.
pub(super) fn opened(request: Request<Bytes>) -> Request<Body> {
    request.map(|bytes| Body::new(Full::new(bytes)))
}
