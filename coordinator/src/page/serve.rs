//! Connections of browsers: HTTP/1.1, over TLS or in the clear, under the limits of all connections.

use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use futures::StreamExt;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::codegen::Service;
use tonic::transport::server::Connected;

use super::desk::Desk;
use super::patient::Patient;
use super::{PageOptions, routes};
use crate::access::{Gate, Tls};
use crate::limits::{Guarded, Handshake, Limits, Peer, incoming};
use crate::store::Store;

/// The least that a server's buffer holds.
const LEAST_BUFFER: usize = 8 << 10;

/// Serves until `stop`; returns when every connection has ended. Dropped, it cuts them.
pub(crate) async fn serve<S: Store>(options: PageOptions, gate: Arc<Gate<S>>, stop: CancellationToken) {
    let limits = gate.shared.limits.clone();
    let handshake = Handshake::by(options.tls.as_ref(), Tls::pages);
    let router = routes::router(Desk::new(gate, handshake.is_some()));
    let host = Arc::new(Host { router, limits, stop });
    let mut connections = pin!(incoming(options.listener, &host.limits, handshake));
    let mut going = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = host.stop.cancelled() => break,
            Some(_ended) = going.join_next(), if !going.is_empty() => {}
            Some(connection) = connections.next() => drop(going.spawn(Arc::clone(&host).receive(connection))),
        }
    }
    while going.join_next().await.is_some() {}
}

/// What all connections share.
struct Host {
    router: Router,
    limits: Limits,
    stop: CancellationToken,
}

impl Host {
    async fn receive(self: Arc<Self>, connection: Guarded) {
        let (peer, patience) = (connection.connect_info(), self.limits.keepalive);
        if let Err(error) = self.speak(Patient::new(connection, patience), peer).await {
            tracing::debug!(%error, "a browser's connection broke off");
        }
    }

    async fn speak(&self, io: Patient<Guarded>, peer: Peer) -> hyper::Result<()> {
        let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer.clone());
            self.router.clone().call(request)
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(self.limits.first_call);
        http.max_buf_size(LEAST_BUFFER.max(self.limits.headers as usize));
        let mut connection = pin!(http.serve_connection(TokioIo::new(io), service));
        tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    }
}
