//! What goes on on a connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::http::Request;

use super::heard::Broken;

/// Calls given up are counted over so long.
const WINDOW: Duration = Duration::from_secs(10);

/// A connection as its calls know it.
#[derive(Debug)]
pub(crate) struct Connection {
    state: Mutex<State>,
    reader: AtomicWaker,
    /// Calls given up within [`WINDOW`], at most.
    limit: u32,
}

#[derive(Debug)]
struct State {
    /// Calls in flight.
    open: usize,
    /// When the last one ended; `None`: there was none yet.
    quiet_since: Option<Instant>,
    abandoned: u32,
    window: Instant,
    cut: bool,
}

/// A connection from the side of what reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It makes calls.
    Busy,
    /// It has made no call yet.
    Fresh,
    /// It has made no call since.
    Quiet(Instant),
    /// It is to end.
    Cut,
}

impl Connection {
    pub(super) fn new(limit: u32) -> Arc<Self> {
        let state = State { open: 0, quiet_since: None, abandoned: 0, window: Instant::now(), cut: false };
        Arc::new(Self { state: Mutex::new(state), reader: AtomicWaker::new(), limit })
    }

    /// A call begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Call {
        self.state().open += 1;
        Call { connection: Arc::clone(self), broken: Broken::default(), answered: false }
    }

    pub(super) fn standing(&self) -> Standing {
        match *self.state() {
            State { cut: true, .. } => Standing::Cut,
            State { open: 0, quiet_since: None, .. } => Standing::Fresh,
            State { open: 0, quiet_since: Some(since), .. } => Standing::Quiet(since),
            State { .. } => Standing::Busy,
        }
    }

    /// `waker` is called when the connection is cut.
    pub(super) fn watch(&self, waker: &Waker) {
        self.reader.register(waker);
    }

    fn end(&self, answered: bool) {
        let now = Instant::now();
        let mut state = self.state();
        state.open -= 1;
        state.quiet_since = Some(now);
        if answered {
            return;
        }
        if now - state.window >= WINDOW {
            (state.window, state.abandoned) = (now, 0);
        }
        state.abandoned += 1;
        if state.abandoned > self.limit && !state.cut {
            state.cut = true;
            drop(state);
            tracing::warn!(limit = self.limit, "a connection gives up its calls before they are answered, cut");
            self.reader.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call in flight. Dropped before it is answered, or answered because its request broke off, it was given up.
#[derive(Debug)]
pub(crate) struct Call {
    connection: Arc<Connection>,
    broken: Broken,
    answered: bool,
}

impl Call {
    /// The request, listened to.
    pub(crate) fn hear(&self, request: Request<Body>) -> Request<Body> {
        request.map(|body| self.broken.noted_by(body))
    }

    /// The call has its answer, or the head of it.
    pub(crate) fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.connection.end(self.answered && !self.broken.is());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_more_calls_than_the_limit_within_the_window_is_cut() {
        let connection = Connection::new(3);
        assert_eq!(connection.standing(), Standing::Fresh);
        for _ in 0..2 {
            (0..3).for_each(|_| drop(connection.begin()));
            assert_eq!(connection.standing(), Standing::Quiet(Instant::now()));
            tokio::time::advance(WINDOW).await;
        }
        (0..3).for_each(|_| drop(connection.begin()));
        let going_on = connection.begin();
        drop(connection.begin());
        assert_eq!(connection.standing(), Standing::Cut);
        drop(going_on);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_the_answers_is_not() {
        let connection = Connection::new(3);
        for _ in 0..1000 {
            connection.begin().answered();
        }
        let call = connection.begin();
        assert_eq!(connection.standing(), Standing::Busy);
        drop(call);
        assert_eq!(connection.standing(), Standing::Quiet(Instant::now()));
    }
}
