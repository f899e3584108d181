//! A machine with one process: a runtime of its own, whose clock stands still until the world lets it go on. To kill the process is
//! to drop the runtime and all its tasks; to freeze it, not to let it go on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};

use likeness_proto::v1::avatars_server::AvatarsServer;
use likeness_proto::v1::workers_server::WorkersServer;

use super::network::Parcel;
use crate::access::{Gate, Guard, Post};
use crate::limits::Peer;
use crate::service::{FleetDesk, FrontDesk};
use crate::store::memory::Memory;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Coordinator(usize),
    Trainer,
    Sampler,
    People,
}

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Up,
    Frozen {
        since: Duration,
        until: Duration,
    },
    /// Told to stop.
    Draining,
    Down {
        until: Duration,
    },
}

pub(super) struct Host {
    pub(super) name: Arc<str>,
    pub(super) role: Role,
    pub(super) health: Health,
    pub(super) process: Option<Process>,
    /// What arrived while it was frozen.
    pub(super) inbox: Vec<Parcel>,
}

/// A running process.
pub(super) struct Process {
    pub(super) runtime: Runtime,
    pub(super) main: JoinHandle<()>,
    pub(super) shutdown: CancellationToken,
    pub(super) desks: Desks,
}

impl Process {
    pub(super) fn start<F>(main: impl FnOnce(CancellationToken, Desks) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let (shutdown, desks) = (CancellationToken::new(), Desks::default());
        let main = runtime.spawn(main(shutdown.clone(), desks.clone()));
        Self { runtime, main, shutdown, desks }
    }

    /// Lives for a while.
    pub(super) fn step(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// Wakes after a while that it has not noticed: every timer that ended meanwhile ends now.
    pub(super) fn wake(&self, slept: Duration) {
        self.runtime.block_on(async { tokio::time::advance(slept).await });
    }
}

/// What a coordinator serves, once it does.
#[derive(Clone, Default)]
pub(super) struct Desks(Arc<Mutex<Option<Open>>>);

#[derive(Clone)]
struct Open {
    people: Guard<Memory, AvatarsServer<FrontDesk<Memory>>>,
    fleet: Guard<Memory, WorkersServer<FleetDesk<Memory>>>,
}

impl Desks {
    pub(super) fn open(&self, gate: &Arc<Gate<Memory>>) {
        let post = Post::new(Arc::clone(gate));
        let people = post.guard(AvatarsServer::new(FrontDesk(Arc::clone(&gate.shared))));
        let fleet = post.guard(WorkersServer::new(FleetDesk(Arc::clone(&gate.shared))));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Open { people, fleet });
    }

    /// The answer to a call; `None` where nobody listens yet.
    pub(super) fn call(
        &self,
        mut request: Request<Body>,
    ) -> Option<impl Future<Output = Response<Body>> + Send + 'static> {
        let Open { mut people, mut fleet } = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        request.extensions_mut().insert(Peer::alone());
        Some(async move {
            let answered = if request.uri().path().starts_with("/likeness.v1.Workers/") {
                fleet.call(request).await
            } else {
                people.call(request).await
            };
            answered.unwrap_or_else(|never| match never {})
        })
    }
}
