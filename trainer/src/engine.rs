//! The thread that a trainer's pack lives on.

use std::sync::{
    Mutex, PoisonError,
    mpsc::{Receiver, SendError, Sender, channel},
};
use std::thread;

use tokio::sync::oneshot;

use crate::{
    Observer, TrainError,
    pack::{End, Pack},
    run::Run,
};

/// Its name, as debuggers and panics show it.
const THREAD: &str = "trainer-pack";

/// Learns the runs that it is given, all that are under way in one pack. Its thread begins with the first run, waits where
/// there is none, and ends when the engine is dropped.
#[derive(Debug)]
pub(crate) struct Engine {
    positions: usize,
    thread: Mutex<Option<Sender<Order>>>,
}

/// A run on its way to the thread.
struct Order {
    run: Run,
    observer: Box<dyn Observer + Send>,
    end: oneshot::Sender<End>,
}

impl Engine {
    /// Without a thread yet. At most `positions` latent positions go into one pass.
    pub(crate) fn new(positions: usize) -> Self {
        Self { positions, thread: Mutex::new(None) }
    }

    /// Learns `run` to its end. If this is dropped, the run leaves the pack before its next step.
    pub(crate) async fn learn(&self, run: Run, observer: Box<dyn Observer + Send>) -> End {
        let (end, ended) = oneshot::channel();
        self.submit(Order { run, observer, end })?;
        let lost =
            || TrainError::Crashed(format!("the thread {THREAD} panicked, with every subject on it; see the log"));
        ended.await.unwrap_or_else(|_gone| Err(lost()))
    }

    /// Hands the order to the thread; to a new one where the last has panicked.
    fn submit(&self, order: Order) -> Result<(), TrainError> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let order = match &*thread {
            None => order,
            Some(orders) => match orders.send(order) {
                Ok(()) => return Ok(()),
                Err(SendError(order)) => order,
            },
        };
        let (orders, received) = channel();
        let positions = self.positions;
        thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || work(&received, positions))
            .map_err(|error| TrainError::Crashed(format!("the thread {THREAD} cannot be started: {error}")))?;
        let _ = orders.send(order); // fails only if the thread is gone already, and `ended` says so
        *thread = Some(orders);
        Ok(())
    }
}

/// Steps while there are runs, waits for one while there are none, until nobody can send any more.
fn work(orders: &Receiver<Order>, positions: usize) {
    let mut pack = Pack::new(positions);
    loop {
        if pack.len() == 0 {
            let Ok(first) = orders.recv() else { return };
            join(&mut pack, first);
        }
        orders.try_iter().for_each(|order| join(&mut pack, order));
        pack.keep(|end: &oneshot::Sender<End>| !end.is_closed());
        for (end, how) in pack.step() {
            let _ = end.send(how); // nobody listens where the attempt was dropped
        }
    }
}

fn join(pack: &mut Pack<'_, oneshot::Sender<End>>, Order { run, observer, end }: Order) {
    pack.join(end, run, observer);
}

#[cfg(test)]
mod tests;
