//! How much one caller, and all of them together, may ask of a coordinator. Who asks for more is refused and told so; who asks for
//! nothing is not kept.

mod connection;
mod deadline;
mod heard;
mod incoming;
mod places;
mod turnstile;

use std::time::Duration;

use tonic::transport::Server;

pub(crate) use connection::Connection;
pub(crate) use deadline::deadline;
pub(crate) use incoming::{Guarded, Handshake, Peer, incoming};
pub(crate) use places::Places;
pub(crate) use turnstile::Turnstile;

/// The numbers. Each has a default that fits a coordinator of 1 GiB, which is meant to hold under any of them reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time. The system must let the process have as many files open, and some more.
    pub connections: usize,
    /// Connections from one address at a time, so that one host cannot keep the others out.
    pub connections_per_address: usize,
    /// Calls in flight on one connection, streams included; clients wait before they exceed it.
    pub calls_per_connection: u32,
    /// Calls with one answer in flight at a time, workers that wait for tasks included.
    pub calls: usize,
    /// Uploads, downloads and watches open at a time.
    pub streams: usize,
    /// Calls that were given up before their answer, on one connection within ten seconds, after which it is cut: who opens and resets
    /// streams makes work and takes nothing.
    pub abandoned: u32,
    /// A connection makes its first call within this time, handshakes included, or is cut.
    pub first_call: Duration,
    /// A connection that has had no call in flight for this long is cut.
    pub idle: Duration,
    /// A call with one answer takes at most this long, or as long as its caller says, where that is less.
    pub call: Duration,
    /// After this time at the latest, a stream whose credential has been revoked or has expired ends.
    pub recheck: Duration,
    /// An upload may keep the coordinator waiting this long, and for as long again as its bytes so far take at
    /// [`Limits::upload_rate`].
    pub upload_wait: Duration,
    /// Bytes per second of the slowest upload.
    pub upload_rate: u64,
    /// Between two pings on a connection, and the time to answer one.
    pub keepalive: Duration,
    /// Bytes of a call's headers, tokens included.
    pub headers: u32,
    /// Streams of a connection that were reset before they were looked at, and those that were reset for a mistake of the caller's, after
    /// which it is cut.
    pub resets: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 1024,
            calls_per_connection: 2048,
            calls: 4096,
            streams: 16_384,
            abandoned: 200,
            first_call: Duration::from_secs(10),
            idle: Duration::from_secs(5 * 60),
            call: Duration::from_secs(2 * 60),
            recheck: Duration::from_secs(30),
            upload_wait: Duration::from_secs(60),
            upload_rate: 16 << 10,
            keepalive: Duration::from_secs(20),
            headers: 16 << 10,
            resets: 20,
        }
    }
}

impl Limits {
    /// A server with those that HTTP/2 itself knows.
    pub(crate) fn server(&self) -> Server {
        Server::builder()
            .max_concurrent_streams(self.calls_per_connection)
            .http2_keepalive_interval(Some(self.keepalive))
            .http2_keepalive_timeout(Some(self.keepalive))
            .http2_max_header_list_size(self.headers)
            .http2_max_pending_accept_reset_streams(Some(self.resets))
            .http2_max_local_error_reset_streams(Some(self.resets))
    }
}
