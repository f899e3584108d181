//! The status page: what a tenant has, and what the fleet does, for people with a browser. HTML that the server writes, which reads well
//! without scripts; one small script brings it up to date when the server says that something has changed.
//!
//! Who may see what is `access`'s to say: a browser's session is a credential that was signed in with, sealed, and every request presents
//! it to the one gate anew.

mod assets;
mod desk;
mod events;
mod guard;
mod oops;
mod patient;
mod picture;
mod routes;
mod serve;
mod session;
mod views;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::access::LatestTls;

pub(crate) use serve::serve;

/// Where the status page is served.
#[derive(Clone, Debug)]
pub struct PageOptions {
    /// Where browsers come.
    pub listener: Arc<TcpListener>,
    /// How they are spoken to; `None`: in the clear, which is for this machine alone.
    pub tls: Option<LatestTls>,
}
