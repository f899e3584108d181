//! The one connection that writes. Transactions take it in turns, and are committed in groups.
//!
//! A commit waits for the disk. So a transaction that ended well lets those go first that wait for their turn, each behind a savepoint,
//! and then commits for all of them (group commit; DeWitt et al., "Implementation Techniques for Main Memory Database Systems",
//! SIGMOD 1984). Turns are taken in the order of asking, so a group is no larger than the crowd that there was when its first ended.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use super::dialect::Connection;
use crate::store::StoreError;

#[cfg(test)]
mod tests;

type Result<T> = std::result::Result<T, StoreError>;

pub(crate) struct Writer {
    options: SqliteConnectOptions,
    seat: Arc<Mutex<Seat>>,
}

/// What the transaction has whose turn it is.
struct Seat {
    connection: Connection,
    /// Transactions that ended well and are not yet committed.
    group: Vec<oneshot::Sender<Result<()>>>,
    /// Whether a turn is on. When nobody has the seat: it was given up in the middle, and is to be undone.
    is_open: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Sound,
    /// Nobody knows what became of a transaction: the connection is to be made anew, which ends it.
    Lost,
    Closed,
}

/// A transaction that writes. One that is dropped is undone.
pub(crate) struct Turn {
    seat: OwnedMutexGuard<Seat>,
}

impl Writer {
    /// `connection`: the first one of those that the options make.
    pub(super) fn new(options: SqliteConnectOptions, connection: Connection) -> Self {
        let seat = Seat { connection, group: Vec::new(), is_open: false, state: State::Sound };
        Self { options, seat: Arc::new(Mutex::new(seat)) }
    }

    pub(crate) async fn begin(&self) -> Result<Turn> {
        let mut seat = Arc::clone(&self.seat).lock_owned().await;
        seat.settle().await;
        match seat.state {
            State::Sound => {}
            State::Lost => {
                seat.connection = self.options.connect().await?;
                seat.state = State::Sound;
            }
            State::Closed => return Err(sqlx::Error::PoolClosed.into()),
        }
        if seat.group.is_empty() {
            // Whether it has begun is not known from here on until it has.
            seat.is_open = true;
            seat.execute("BEGIN IMMEDIATE").await?;
        } else {
            // A savepoint more does no harm, but to go back to one that is not there would undo another's turn.
            seat.execute("SAVEPOINT turn").await?;
            seat.is_open = true;
        }
        Ok(Turn { seat })
    }

    pub(crate) async fn close(&self) {
        let mut seat = self.seat.lock().await;
        seat.settle().await;
        seat.commit().await;
        seat.state = State::Closed;
        // What readers are there may go on. The file is whole without it.
        let _checkpointed = seat.execute("PRAGMA wal_checkpoint(TRUNCATE)").await;
    }
}

impl Turn {
    /// Ends well. Answers once it is on the disk with its whole group, or that it is not. To be polled to its end: what is left of a group
    /// that nobody waits for is committed by the next who writes.
    pub(crate) async fn commit(mut self) -> Result<()> {
        let (committed, mut is_committed) = oneshot::channel();
        self.seat.is_open = false;
        self.seat.group.push(committed);
        let seat = Arc::clone(OwnedMutexGuard::mutex(&self.seat));
        drop(self);
        tokio::select! {
            biased;
            committed = &mut is_committed => committed,
            mut seat = seat.lock() => {
                seat.settle().await;
                seat.commit().await;
                is_committed.await
            }
        }
        .unwrap_or_else(|_| Err(StoreError::Engine("the store was closed".to_owned())))
    }

    /// Ends and undoes what was done.
    pub(crate) async fn roll_back(mut self) {
        self.seat.settle().await;
    }
}

impl Deref for Turn {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.seat.connection
    }
}

impl DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.seat.connection
    }
}

impl Seat {
    /// Undoes the turn that is on, if there is one.
    async fn settle(&mut self) {
        if !self.is_open {
            return;
        }
        let statement = if self.group.is_empty() { "ROLLBACK" } else { "ROLLBACK TO turn" };
        if let Err(error) = self.execute(statement).await {
            // When the disk is full SQLite undoes a whole transaction by itself, and so the group.
            self.state = State::Lost;
            self.answer(|| Err(StoreError::Contended(format!("another of its group failed: {error}"))));
        }
        self.is_open = false;
    }

    /// Commits the group.
    async fn commit(&mut self) {
        if self.group.is_empty() {
            return;
        }
        match self.execute("COMMIT").await {
            Ok(()) => self.answer(|| Ok(())),
            Err(error) => {
                self.state = State::Lost;
                self.answer(|| {
                    Err(match &error {
                        StoreError::Full => StoreError::Full,
                        error => StoreError::Engine(error.to_string()),
                    })
                });
            }
        }
    }

    /// Tells the group what became of it. Those who have gone away meanwhile need not know.
    fn answer(&mut self, outcome: impl Fn() -> Result<()>) {
        for member in self.group.drain(..) {
            let _gone = member.send(outcome());
        }
    }

    async fn execute(&mut self, statement: &'static str) -> Result<()> {
        sqlx::query(statement).execute(&mut self.connection).await?;
        Ok(())
    }
}
