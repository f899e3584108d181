//! A stream of a call that ends when its caller may make the call no longer.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use likeness_proto::ErrorCode;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::codegen::http::HeaderMap;

use super::Gate;
use super::gate::Caller;
use crate::store::Store;

/// Ends with the reason why the stream is to end.
pub(crate) type End = BoxFuture<'static, Status>;

/// Waits until the caller's credential opens the call no longer, looking once in `period`, or until the deadline of a call that began
/// at the first instant.
pub(crate) fn end<S: Store>(
    gate: Arc<Gate<S>>,
    caller: Caller,
    period: Duration,
    due: Option<(Instant, Instant)>,
) -> End {
    let lapsed = async move {
        loop {
            sleep(period).await;
            // On the heap while it lasts: streams mostly wait, and there are many.
            match Box::pin(gate.admit(&caller)).await {
                Err(refusal) if matches!(refusal.code, ErrorCode::Unauthenticated | ErrorCode::Forbidden) => {
                    tracing::info!(path = caller.path, %refusal, "a stream's credential opens it no longer, ended");
                    return refusal.into();
                }
                // A store that cannot be asked now says nothing of the credential.
                Ok(_) | Err(_) => {}
            }
        }
    };
    match due {
        None => Box::pin(lapsed),
        Some((began, due)) => Box::pin(async move {
            tokio::select! {
                biased;
                status = lapsed => status,
                () = sleep_until(due) => late(began, due),
            }
        }),
    }
}

/// A call was not answered in its time.
pub(super) fn late(began: Instant, due: Instant) -> Status {
    Status::deadline_exceeded(format!(
        "not answered within {:?}, which the caller or the coordinator allows",
        due - began
    ))
}

/// The body of a request or an answer.
pub(super) struct Watched {
    body: Body,
    /// `None`: it has come.
    end: Option<End>,
    way: Way,
    _held: Option<Box<dyn Any + Send>>,
}

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

impl Watched {
    /// The messages of an upload, until `end`.
    pub(super) fn up(body: Body, end: End) -> Self {
        Self { body, end: Some(end), way: Way::Up, _held: None }
    }

    /// The messages of an answer, until `end`; drops `held` with it.
    pub(super) fn down(body: Body, end: End, held: impl Send + 'static) -> Self {
        Self { body, end: Some(end), way: Way::Down, _held: Some(Box::new(held)) }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(end) = &mut self.end else { return Poll::Ready(None) };
        let Poll::Ready(status) = end.as_mut().poll(context) else {
            return Pin::new(&mut self.body).poll_frame(context);
        };
        self.end = None;
        self.body = Body::empty(); // whoever fills it sees that nobody reads on
        Poll::Ready(Some(match self.way {
            Way::Up => Err(status),
            Way::Down => {
                let mut trailers = HeaderMap::new();
                status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.end.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    /// Has another byte whenever it is asked.
    struct Endless;

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    #[tokio::test]
    async fn a_download_in_full_flow_ends_with_the_reason_and_lets_go_of_what_it_holds() {
        let (revoke, revoked) = tokio::sync::oneshot::channel::<()>();
        let held = Arc::new(());
        let end = Box::pin(async move {
            revoked.await.unwrap();
            Status::unauthenticated("revoked")
        });
        let mut watched = Watched::down(Body::new(Endless), end, Arc::clone(&held));
        let mut next = async || std::future::poll_fn(|context| Pin::new(&mut watched).poll_frame(context)).await;
        for _ in 0..100 {
            assert!(next().await.unwrap().unwrap().is_data());
        }
        revoke.send(()).unwrap();
        let last = next().await.unwrap().unwrap().into_trailers().expect("trailers");
        assert_eq!(last["grpc-status"], "16");
        assert!(next().await.is_none());
        assert!(watched.is_end_stream());
        drop(watched);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
