//! Objects of the bucket, to those who may download them, and written down in the audit log as every download is.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use likeness_proto::v1::DownloadChunk;
use likeness_proto::{ObjectKey, ObjectKind, Refusal, kind_of};
use tonic::Status;

use super::desk::{Desk, may};
use super::oops::Oops;
use crate::service::download;
use crate::store::Store;

/// An object's key names its content for ever, so a browser need not ask again; but nobody else's session shows it.
const CACHING: &str = "private, max-age=3600, immutable";
/// A picture is no page.
const POLICY: &str = "default-src 'none'; sandbox; frame-ancestors 'none'";

/// Answers a committed object of the visitor's tenant.
pub(super) async fn object<S: Store>(
    State(desk): State<Arc<Desk<S>>>,
    headers: HeaderMap,
    Path(key): Path<String>,
) -> Response {
    send(&desk, &headers, &key).await.unwrap_or_else(Oops::bare)
}

async fn send<S: Store>(desk: &Desk<S>, headers: &HeaderMap, key: &str) -> Result<Response, Oops> {
    let visitor = desk.visitor(headers, may::DOWNLOAD).await?;
    let object: ObjectKey = key.parse()?;
    let (kind, disposition) = kind(&object)?;
    let mut bytes = download(desk.shared(), visitor.tenant()?, key, &visitor.access.actor).await?.boxed();
    // Of most objects this is all, checked: a damaged one is refused rather than broken off.
    let first = bytes.next().await.transpose().map_err(|status| Refusal::read(&status))?;
    let bytes = futures::stream::iter(first.map(Ok)).chain(bytes);
    let end = desk.end(&visitor, may::DOWNLOAD, Some(desk.shared().limits.call));
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CACHE_CONTROL, CACHING),
        (header::VARY, "cookie"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    Ok((headers, Body::from_stream(until(bytes.boxed(), end))).into_response())
}

/// How a browser is to take an object; checkpoints and whatever else there is are not for it.
fn kind(key: &ObjectKey) -> Result<(&'static str, &'static str), Oops> {
    match kind_of(key) {
        ObjectKind::Photo | ObjectKind::Avatar => Ok(("image/png", "inline")),
        ObjectKind::Other if key.file_name() == likeness_proto::CONTACT_SHEET_NAME => Ok(("image/png", "inline")),
        ObjectKind::Embedding => Ok(("application/octet-stream", "attachment; filename=\"embedding.safetensors\"")),
        ObjectKind::Checkpoint | ObjectKind::Other => Err(Oops::NotFound),
    }
}

/// The chunks until `end`, which breaks the answer off.
fn until(
    bytes: BoxStream<'static, Result<DownloadChunk, Status>>,
    end: BoxFuture<'static, Status>,
) -> impl Stream<Item = Result<Vec<u8>, Status>> {
    futures::stream::unfold(Some((bytes, end)), async |going| {
        let (mut bytes, mut end) = going?;
        let next = tokio::select! {
            biased;
            status = &mut end => return Some((Err(status), None)),
            next = bytes.next() => next?,
        };
        let goes_on = next.is_ok().then_some((bytes, end));
        Some((next.map(|chunk| chunk.data), goes_on))
    })
}
