//! The thread that a sampler's batch lives on.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    mpsc::{Receiver, SendError, Sender, channel},
};
use std::thread;

use likeness_diffusion::{BaseModel, Look, Shot};
use likeness_proto::ErrorCode;
use likeness_telemetry::trace;
use likeness_worker::WorkError;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::batch::{Batch, Drawn, Order, Step, Subject};

/// Its name, as debuggers and panics show it.
const THREAD: &str = "sampler-batch";

/// Draws what it is given, the pictures of all tasks in one batch. Its thread begins with the first order, waits where there is
/// none, and ends when the engine is dropped.
#[derive(Debug)]
pub(crate) struct Engine {
    model: Arc<BaseModel>,
    pixels: usize,
    thread: Mutex<Option<Arc<Sender<Order>>>>,
    tally: Arc<Mutex<Step>>,
}

impl Engine {
    /// Without a thread yet. Pictures of at most `pixels` pixels are under way at once.
    pub(crate) fn new(model: Arc<BaseModel>, pixels: usize) -> Self {
        Self { model, pixels, thread: Mutex::default(), tally: Arc::default() }
    }

    /// Begins to draw `shots`. `wanted` is asked before each step; when it is not, or the drawing is dropped, its pictures leave
    /// the batch before the next step.
    pub(crate) fn draw(
        &self,
        subject: Subject,
        look: Look,
        shots: Vec<Shot>,
        wanted: impl Fn() -> bool + Send + 'static,
    ) -> Result<Drawing<'_>, WorkError> {
        let (drawn, pictures) = unbounded_channel();
        let (wanted, span) = (Box::new(wanted), trace::current());
        let thread = self.submit(Order { subject, look, shots, wanted, span, drawn })?;
        Ok(Drawing { engine: self, thread, pictures })
    }

    /// All the steps that it has made, summed up: more pictures than passes where pictures shared them.
    pub(crate) fn tally(&self) -> Step {
        *locked(&self.tally)
    }

    /// Hands the order to the thread, or to a fresh one where that has panicked.
    fn submit(&self, mut order: Order) -> Result<Arc<Sender<Order>>, WorkError> {
        let mut thread = self.thread();
        if let Some(orders) = &*thread {
            match orders.send(order) {
                Ok(()) => return Ok(Arc::clone(orders)),
                Err(SendError(unsent)) => order = unsent,
            }
        }
        let orders = Arc::clone(thread.insert(Arc::new(self.start()?)));
        let _ = orders.send(order); // where the thread is gone, so is the order, and the drawing says so
        Ok(orders)
    }

    fn start(&self) -> Result<Sender<Order>, WorkError> {
        let (orders, received) = channel();
        let (batch, tally) = (Batch::new(Arc::clone(&self.model), self.pixels), Arc::clone(&self.tally));
        let thread = thread::Builder::new().name(THREAD.to_owned()).spawn(move || work(batch, &received, &tally));
        let started = thread.map(|_detached| orders);
        started.map_err(|error| crashed(format!("the thread {THREAD} cannot be started: {error}")))
    }

    /// Makes the next order begin a fresh thread, unless another has done so.
    fn forget(&self, panicked: &Arc<Sender<Order>>) {
        self.thread().take_if(|orders| Arc::ptr_eq(orders, panicked));
    }

    fn thread(&self) -> MutexGuard<'_, Option<Arc<Sender<Order>>>> {
        locked(&self.thread)
    }
}

/// No panic can leave what is locked here half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pictures of one order, as they are finished.
pub(crate) struct Drawing<'a> {
    engine: &'a Engine,
    thread: Arc<Sender<Order>>,
    pictures: UnboundedReceiver<Drawn>,
}

impl Drawing<'_> {
    /// The next picture and the place of its shot. To be asked for as many as there are shots, or up to the first error.
    pub(crate) async fn next(&mut self) -> Drawn {
        self.pictures.recv().await.unwrap_or_else(|| {
            self.engine.forget(&self.thread);
            Err(crashed(format!("the thread {THREAD} panicked, with every picture on it; see its message")))
        })
    }
}

fn crashed(message: String) -> WorkError {
    WorkError::Failed { code: ErrorCode::Internal, message, retry: true }
}

/// Steps while there are pictures, waits for an order while there are none, until nobody can send any more.
fn work(mut batch: Batch, orders: &Receiver<Order>, tally: &Mutex<Step>) {
    loop {
        if batch.is_empty() {
            let Ok(first) = orders.recv() else { return };
            batch.join(first);
        }
        orders.try_iter().for_each(|order| batch.join(order));
        *locked(tally) += batch.step();
    }
}

#[cfg(test)]
mod tests;
