//! The gRPC services: decode, ask the store, encode.

mod admin;
mod avatars;
mod download;
mod upload;
mod watch;
mod workers;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use admin::AdminDesk;
pub(crate) use avatars::FrontDesk;
pub(crate) use download::download;
pub(crate) use watch::watch;
pub(crate) use workers::FleetDesk;

use std::sync::Arc;

use likeness_proto::{ErrorCode, Refusal};
use tokio_util::sync::CancellationToken;

use crate::bucket::Bucket;
use crate::limits::{Limits, Places};
use crate::store::Store;

/// Bytes of a message at most, either way: a job with thousands of avatars is a few MiB.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;

/// What the services share.
#[derive(Debug)]
pub(crate) struct Shared<S> {
    pub(crate) store: S,
    pub(crate) bucket: Bucket,
    pub(crate) shutdown: CancellationToken,
    pub(crate) limits: Limits,
    /// Photos decoded at a time: each may take a core and the decoder's budget.
    pub(crate) decoders: tokio::sync::Semaphore,
    /// Uploads at a time, and of one tenant: each may hold a whole photo file.
    pub(crate) uploads: Places,
}

impl<S: Store> Shared<S> {
    pub(crate) fn new(store: S, bucket: Bucket, limits: Limits, shutdown: CancellationToken) -> Arc<Self> {
        const DECODERS: usize = 2;
        const UPLOADS: usize = 16;
        const UPLOADS_OF_ONE: usize = 4;
        let (decoders, uploads) = (tokio::sync::Semaphore::new(DECODERS), Places::new(UPLOADS, UPLOADS_OF_ONE));
        Arc::new(Self { store, bucket, shutdown, limits, decoders, uploads })
    }
}

fn shutting_down() -> Refusal {
    Refusal::new(ErrorCode::Unavailable, "the coordinator is shutting down; try again when it is back")
}
