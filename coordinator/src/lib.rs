//! The coordinator of Likeness: the front door for people, the desk that hands work to the fleet, and the memory of both.
//! Knows no tensors.
//!
//! What may happen to tasks is decided by `lifecycle`, a pure state machine; a `Store` remembers it; the gRPC services
//! decode, ask the store, encode. `page` shows the same to browsers. `audit` is the log of who did what. `photos` is the only place that reads bytes of strangers.

mod access;
pub mod audit;
mod bucket;
mod clock;
mod counting;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
mod lifecycle;
mod limits;
mod metrics;
mod models;
mod office;
mod page;
mod photos;
mod run;
mod service;
#[cfg(test)]
mod simulation;
mod store;
mod sweep;

pub use access::{
    Access, CertificatesError, LatestTls, NamedWorker, OidcError, OidcOptions, Tls, TlsError, Tokens, Trade,
    WorkerCertificates,
};
pub use bucket::{History, Relic, RelicKind};
pub use limits::Limits;
pub use page::PageOptions;
pub use photos::{DECODER_BUDGET, MAX_PHOTOS, MAX_SIDE, STORED_SIDE};
pub use run::{CoordinatorError, Options, run};
pub use store::{Found, NoStore, OpenError, StoreAddress, look};
