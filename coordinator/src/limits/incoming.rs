//! Connections as they come: so many and no more, spoken to by TLS or in the clear, and none that does nothing.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::Connected;

use super::connection::Standing;
use super::{Connection, Limits};
use crate::access::{LatestTls, Tls};

/// When no connection can be had, for want of files say, the next is waited for so long.
const PAUSE: Duration = Duration::from_millis(50);

/// How connections are spoken to; those of callers and of browsers take another part of the same.
#[derive(Clone, Debug)]
pub(crate) struct Handshake {
    latest: LatestTls,
    part: fn(&Tls) -> Arc<ServerConfig>,
}

impl Handshake {
    /// By this part of the latest of `tls`; `None`: in the clear.
    pub(crate) fn by(tls: Option<&LatestTls>, part: fn(&Tls) -> Arc<ServerConfig>) -> Option<Self> {
        tls.map(|latest| Self { latest: latest.clone(), part })
    }

    fn acceptor(&self) -> TlsAcceptor {
        (self.part)(&self.latest.borrow()).into()
    }
}

/// The connections that come to `listener`, once they are spoken to. One that takes its time holds up no other.
pub(crate) fn incoming(
    listener: Arc<TcpListener>,
    limits: &Limits,
    handshake: Option<Handshake>,
) -> impl Stream<Item = Guarded> + Send + use<> {
    let (most, limits) = (limits.connections, limits.clone());
    arrivals(listener, Crowd::new(&limits))
        .map(move |(tcp, place)| {
            let spoken_to = greet(tcp, place, limits.clone(), handshake.clone());
            AbortOnDropHandle::new(tokio::spawn(spoken_to))
        })
        .buffer_unordered(most)
        .filter_map(async |greeted| match greeted.map_err(io::Error::other).flatten() {
            Ok(connection) => Some(connection),
            Err(error) => {
                tracing::debug!(%error, "a connection was lost before it was spoken to");
                None
            }
        })
}

fn arrivals(listener: Arc<TcpListener>, crowd: Arc<Crowd>) -> impl Stream<Item = (TcpStream, Place)> + Send {
    futures::stream::unfold((listener, crowd), async |(listener, crowd)| {
        loop {
            match listener.accept().await {
                Ok((tcp, address)) => match crowd.enter(address.ip()) {
                    Some(place) => return Some(((tcp, place), (listener, crowd))),
                    None => tracing::debug!(%address, "more connections than the limit, closed"),
                },
                Err(error) => {
                    tracing::warn!(%error, "no connection accepted, will be tried again");
                    sleep(PAUSE).await;
                }
            }
        }
    })
}

async fn greet(tcp: TcpStream, place: Place, limits: Limits, handshake: Option<Handshake>) -> io::Result<Guarded> {
    tcp.set_nodelay(true)?;
    let first_call = Instant::now() + limits.first_call;
    let (io, chain) = match handshake {
        None => (Either::Left(tcp), None),
        Some(handshake) => {
            let tls = timeout_at(first_call, handshake.acceptor().accept(tcp)).await??;
            let chain = tls.get_ref().1.peer_certificates().map(|chain| Arc::new(chain.to_vec()));
            (Either::Right(Box::new(tls)), chain)
        }
    };
    Ok(Guarded::new(io, chain, place, &limits, first_call))
}

/// Who is connected.
#[derive(Debug)]
struct Crowd {
    most: usize,
    most_of_one: usize,
    present: Mutex<HashMap<IpAddr, usize>>,
}

impl Crowd {
    fn new(limits: &Limits) -> Arc<Self> {
        let (most, most_of_one) = (limits.connections, limits.connections_per_address);
        Arc::new(Self { most, most_of_one, present: Mutex::default() })
    }

    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut present = self.present();
        let (all, own) = (present.values().sum::<usize>(), present.get(&address).copied().unwrap_or(0));
        if all >= self.most || own >= self.most_of_one {
            return None;
        }
        present.insert(address, own + 1);
        Some(Place { crowd: Arc::clone(self), address })
    }

    fn present(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the connected.
#[derive(Debug)]
struct Place {
    crowd: Arc<Crowd>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut present = self.crowd.present();
        let own = present.get(&self.address).copied().unwrap_or(0);
        match own {
            0 | 1 => present.remove(&self.address),
            more => present.insert(self.address, more - 1),
        };
    }
}

/// The other end of a connection; every call on it has this among its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) connection: Arc<Connection>,
    /// The certificates that it showed, its own first.
    pub(crate) chain: Option<Arc<Vec<CertificateDer<'static>>>>,
}

#[cfg(test)]
impl Peer {
    /// Of a call that comes over no connection.
    pub(crate) fn alone() -> Self {
        Self { connection: Connection::new(u32::MAX), chain: None }
    }
}

type Io = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A connection that ends when it makes no calls, or too many that it gives up.
#[derive(Debug)]
pub(crate) struct Guarded {
    io: Io,
    peer: Peer,
    look: Pin<Box<Sleep>>,
    first_call: Instant,
    idle: Duration,
    _place: Place,
}

impl Guarded {
    fn new(
        io: Io,
        chain: Option<Arc<Vec<CertificateDer<'static>>>>,
        place: Place,
        limits: &Limits,
        first_call: Instant,
    ) -> Self {
        let look = Box::pin(sleep_until(first_call.min(Instant::now() + limits.idle)));
        let peer = Peer { connection: Connection::new(limits.abandoned), chain };
        Self { io, peer, look, first_call, idle: limits.idle, _place: place }
    }

    /// Whether the connection may go on. Looks when it could be over at the earliest, and as often again.
    fn goes_on(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.peer.connection.watch(context.waker());
        let cut = |why| Err(io::Error::new(ErrorKind::TimedOut, why));
        if self.peer.connection.standing() == Standing::Cut {
            return cut("too many calls given up");
        }
        while self.look.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let next = match self.peer.connection.standing() {
                Standing::Cut => return cut("too many calls given up"),
                Standing::Fresh if now >= self.first_call => return cut("no call since it was opened"),
                Standing::Fresh => self.first_call,
                Standing::Quiet(since) if now >= since + self.idle => return cut("no call for a long time"),
                Standing::Quiet(since) => since + self.idle,
                Standing::Busy => now + self.idle,
            };
            self.look.as_mut().reset(next);
        }
        Ok(())
    }
}

impl Connected for Guarded {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.goes_on(context)?;
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places() {
        let crowd = Crowd::new(&Limits { connections: 3, connections_per_address: 2, ..Limits::default() });
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let (first, second) = (crowd.enter(a).unwrap(), crowd.enter(a).unwrap());
        assert!(crowd.enter(a).is_none());
        let third = crowd.enter(b).unwrap();
        assert!(crowd.enter(b).is_none(), "three is all there are");
        drop((first, third));
        assert!(crowd.enter(a).is_some());
        drop(second);
        assert!(crowd.present().is_empty());
    }
}
