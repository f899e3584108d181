//! The thread that a trainer's pack lives on.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    mpsc::{Receiver, RecvTimeoutError, Sender, channel},
};
use std::thread;

use tokio::sync::oneshot;
use tracing::error;

use crate::{
    Group, Observer, TrainError,
    group::Crew,
    pack::{End, Pack},
    run::Run,
};

/// Its name, as debuggers and panics show it.
const THREAD: &str = "trainer-pack";

/// Learns the runs that it is given, all that are under way in one pack. Its thread begins with the first run, or with the engine
/// where it leads a group; it waits where there is no run, and ends when the engine is dropped.
#[derive(Debug)]
pub(crate) struct Engine {
    positions: usize,
    group: Option<Group>,
    thread: Mutex<Option<Arc<Sender<Order>>>>,
}

/// A run on its way to the thread.
struct Order {
    run: Run,
    observer: Box<dyn Observer + Send>,
    end: oneshot::Sender<End>,
}

impl Engine {
    /// The pack's samples are measured by `group`, where there is one. At most `positions` latent positions go into one pass.
    pub(crate) fn new(positions: usize, group: Option<Group>) -> Self {
        let engine = Self { positions, group, thread: Mutex::new(None) };
        if engine.group.is_some()
            && let Err(error) = engine.begin(&mut engine.thread())
        {
            error!(%error, "group not formed before the first task");
        }
        engine
    }

    fn begin(&self, thread: &mut Option<Arc<Sender<Order>>>) -> Result<Arc<Sender<Order>>, TrainError> {
        let orders = thread.insert(Arc::new(start(self.positions, Crew::new(self.group.clone()))?));
        Ok(Arc::clone(orders))
    }

    /// Learns `run` to its end. If this is dropped, the run leaves the pack before its next step.
    pub(crate) async fn learn(&self, run: Run, observer: Box<dyn Observer + Send>) -> End {
        let (end, ended) = oneshot::channel();
        let orders = self.submit(Order { run, observer, end })?;
        ended.await.unwrap_or_else(|_gone| {
            self.forget(&orders);
            Err(TrainError::Crashed(format!("the thread {THREAD} panicked, with every subject on it; see its message")))
        })
    }

    /// Hands the order to the thread. Where that has panicked, the order's end goes with it.
    fn submit(&self, order: Order) -> Result<Arc<Sender<Order>>, TrainError> {
        let mut thread = self.thread();
        let orders = match &*thread {
            Some(orders) => Arc::clone(orders),
            None => self.begin(&mut thread)?,
        };
        let _ = orders.send(order);
        Ok(orders)
    }

    /// Makes the next run begin a fresh thread, unless another run has done so.
    fn forget(&self, panicked: &Arc<Sender<Order>>) {
        self.thread().take_if(|orders| Arc::ptr_eq(orders, panicked));
    }

    fn thread(&self) -> MutexGuard<'_, Option<Arc<Sender<Order>>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start(positions: usize, crew: Crew) -> Result<Sender<Order>, TrainError> {
    let (orders, received) = channel();
    let thread =
        thread::Builder::new().name(THREAD.to_owned()).spawn(move || work(&received, Pack::new(positions, crew)));
    let started = thread.map(|_detached| orders);
    started.map_err(|error| TrainError::Crashed(format!("the thread {THREAD} cannot be started: {error}")))
}

/// Steps while there are runs, waits for one while there are none, until nobody can send any more.
fn work(orders: &Receiver<Order>, mut pack: Pack<'_, oneshot::Sender<End>>) {
    loop {
        if pack.len() == 0 {
            let Some(first) = wait(orders, &mut pack) else { return };
            join(&mut pack, first);
        }
        orders.try_iter().for_each(|order| join(&mut pack, order));
        pack.keep(|end: &oneshot::Sender<End>| !end.is_closed());
        for (end, how) in pack.step() {
            let _ = end.send(how); // nobody listens where the attempt was dropped
        }
    }
}

/// The next run; none when there will be no more. Meanwhile the pack is not left alone for too long.
fn wait(orders: &Receiver<Order>, pack: &mut Pack<'_, oneshot::Sender<End>>) -> Option<Order> {
    while let Some(silence) = pack.silence() {
        match orders.recv_timeout(silence) {
            Ok(order) => return Some(order),
            Err(RecvTimeoutError::Timeout) => pack.idle(),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
    orders.recv().ok()
}

fn join(pack: &mut Pack<'_, oneshot::Sender<End>>, Order { run, observer, end }: Order) {
    pack.join(end, run, observer);
}

#[cfg(test)]
mod tests;
