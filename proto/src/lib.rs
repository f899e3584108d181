//! The wire of Likeness and what it means: generated messages and services, ids, errors and object keys.
//! Knows no tensors and no runtimes.

/// Messages, clients and servers generated from `likeness/v1/*.proto`, which document them.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("likeness.v1");
}
