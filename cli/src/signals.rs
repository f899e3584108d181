//! Signals: the first asks to stop, the second ends the process at once.

use crate::exit::Failure;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Who signals a process and then its group, as `timeout` does, means it once.
const ONE_REQUEST: Duration = Duration::from_millis(300);
const INTERRUPTED: i32 = 130;
const TERMINATED: i32 = 143;

/// A token that the first SIGINT or SIGTERM cancels. A second one ends the process with 130 or 143.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn shutdown() -> Result<CancellationToken, Failure> {
    let interrupt = signal(SignalKind::interrupt()).map_err(Failure::unexpected)?;
    let terminate = signal(SignalKind::terminate()).map_err(Failure::unexpected)?;
    let token = CancellationToken::new();
    tokio::spawn(listen(interrupt, terminate, token.clone()));
    Ok(token)
}

async fn listen(mut interrupt: Signal, mut terminate: Signal, token: CancellationToken) {
    let first = next(&mut interrupt, &mut terminate).await;
    info!(signal = name(first), "stopping; a second signal ends at once");
    token.cancel();
    let _ = timeout(ONE_REQUEST, async {
        loop {
            next(&mut interrupt, &mut terminate).await;
        }
    })
    .await;
    let second = next(&mut interrupt, &mut terminate).await;
    warn!(signal = name(second), "second signal, ending at once");
    std::process::exit(second);
}

/// The exit code that the next signal stands for.
async fn next(interrupt: &mut Signal, terminate: &mut Signal) -> i32 {
    tokio::select! {
        _ = interrupt.recv() => INTERRUPTED,
        _ = terminate.recv() => TERMINATED,
    }
}

fn name(code: i32) -> &'static str {
    if code == INTERRUPTED { "SIGINT" } else { "SIGTERM" }
}
