//! Ranks of other processes: a stream each, to the process of rank 0.

mod assembly;
mod door;
mod greeting;
mod member;
mod remote;

use std::time::Duration;

use futures::{FutureExt, StreamExt, future::BoxFuture};
use likeness_proto::{PROTOCOL_VERSION, v1, v1::ranks_server::RanksServer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Server, server::TcpIncoming},
};

pub use assembly::Assembly;
pub use door::{Admission, Certificates};
pub use remote::{JoinError, Remote};

/// Parts are as large as the latents of a subject's photos, and a few megabytes of gradients.
const MAX_MESSAGE: usize = 256 << 20;
/// A part is on its way without waiting for the receiver to ask for more of it.
const WINDOW: u32 = 16 << 20;
/// A process that is gone without a word is noticed after interval and limit, where no call waits for it.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What all ranks of a group must have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Version of the program.
    pub software: String,
    /// Digest of the base model.
    pub base_model: String,
    /// Ranks of the group.
    pub size: usize,
}

impl Terms {
    fn introduce(&self, rank: usize) -> v1::Introduction {
        v1::Introduction {
            protocol_version: PROTOCOL_VERSION,
            software: self.software.clone(),
            base_model: self.base_model.clone(),
            size: self.size as u32,
            rank: rank as u32,
        }
    }
}

/// Lets ranks that pass `admission` join `assembly`, until `shutdown`; then every stream ends.
///
/// # Errors
/// The listener failed.
///
/// Boxed, so that this crate compiles the server, once.
pub fn serve(
    listener: TcpListener,
    assembly: Assembly,
    admission: &Admission,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), tonic::transport::Error>> {
    let ranks =
        RanksServer::new(assembly).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
    let server = Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(InterceptedService::new(ranks, door::Door::new(admission)));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = match admission {
        Admission::Token(_) => server.serve_with_incoming(incoming).boxed(),
        Admission::Certificates(certificates) => {
            let connections = greeting::greeted(incoming, certificates.clone());
            server.serve_with_incoming(connections.map(Ok::<_, std::io::Error>)).boxed()
        }
    };
    Box::pin(async move { shutdown.run_until_cancelled(served).await.unwrap_or(Ok(())) })
}

/// Numbers as they travel.
fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// And back.
fn to_numbers(bytes: &[u8]) -> impl ExactSizeIterator<Item = f32> {
    bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word))
}
