//! Connections that are spoken to by TLS as they come.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::Certificates;

/// Who has not made itself known by then is let go.
const LIMIT: Duration = Duration::from_secs(10);
/// Connections that are spoken to at once; who comes beyond that waits.
const AT_ONCE: usize = 64;
/// When no connection can be had, for want of files say, the next is waited for so long.
const PAUSE: Duration = Duration::from_millis(50);

/// Those of `incoming` that speak TLS with `certificates` as they are then. One that takes its time holds up no other.
pub(super) fn greeted(
    incoming: impl Stream<Item = io::Result<TcpStream>> + Send,
    certificates: Arc<dyn Certificates>,
) -> impl Stream<Item = TlsStream<TcpStream>> + Send {
    incoming
        .map(move |tcp| AbortOnDropHandle::new(tokio::spawn(greet(tcp, Arc::clone(&certificates)))))
        .buffer_unordered(AT_ONCE)
        .filter_map(async |greeted| match greeted.map_err(io::Error::other).flatten() {
            Ok(connection) => Some(connection),
            Err(error) => {
                warn!(%error, "a connection was lost before it was spoken to");
                None
            }
        })
}

async fn greet(tcp: io::Result<TcpStream>, certificates: Arc<dyn Certificates>) -> io::Result<TlsStream<TcpStream>> {
    let tcp = match tcp {
        Ok(tcp) => tcp,
        Err(error) => {
            sleep(PAUSE).await;
            return Err(error);
        }
    };
    timeout(LIMIT, TlsAcceptor::from(certificates.handshake()).accept(tcp)).await?
}
