//! Signals: the first asks to stop, the second ends the process at once.

use crate::exit::Failure;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::SignalStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Who signals a process and then its group, as `timeout` does, means it once.
const ONE_REQUEST: Duration = Duration::from_millis(300);

/// A token that the first SIGINT or SIGTERM cancels. A second one ends the process with 130 or 143.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn shutdown() -> Result<CancellationToken, Failure> {
    let each = |kind| signal(kind).map(SignalStream::new).map_err(Failure::unexpected);
    let interrupts = each(SignalKind::interrupt())?.map(|()| Received::Interrupt);
    let signals = interrupts.merge(each(SignalKind::terminate())?.map(|()| Received::Terminate));
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        let second = second(signals, stop).await;
        warn!(signal = second.name(), "second signal, ending at once");
        std::process::exit(second.exit_code());
    });
    Ok(token)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Received {
    Interrupt,
    Terminate,
}

impl Received {
    fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }

    /// 128 plus the signal's number, as shells say it.
    fn exit_code(self) -> i32 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// Cancels `stop` at the first signal and returns with the second that is not part of the same request.
async fn second(mut signals: impl Stream<Item = Received> + Unpin, stop: CancellationToken) -> Received {
    let mut next = async || match signals.next().await {
        Some(received) => received,
        None => std::future::pending().await,
    };
    let first = next().await;
    info!(signal = first.name(), "stopping; a second signal ends at once");
    stop.cancel();
    let same = Instant::now() + ONE_REQUEST;
    while timeout_at(same, next()).await.is_ok() {}
    next().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: &[u64]) -> impl Stream<Item = Received> + Unpin {
        let began = Instant::now();
        let times = milliseconds.iter().map(|ms| Duration::from_millis(*ms)).collect::<Vec<_>>();
        Box::pin(tokio_stream::iter(times).then(move |after| async move {
            tokio::time::sleep_until(began + after).await;
            Received::Terminate
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_signal_asks_and_the_second_ends() {
        let (began, stop) = (Instant::now(), CancellationToken::new());
        assert_eq!(second(at(&[0, 1000]), stop.clone()).await.exit_code(), 143);
        assert!(stop.is_cancelled());
        assert_eq!(began.elapsed().as_millis(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_signalled_along_with_its_group_is_asked_once() {
        let began = Instant::now();
        second(at(&[0, 5, 10, 2000]), CancellationToken::new()).await;
        assert_eq!(began.elapsed().as_millis(), 2000);
    }
}
