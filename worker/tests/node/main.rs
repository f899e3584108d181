//! The node against a scripted coordinator on loopback. Time is real, since sockets do not wait for a paused clock;
//! tests wait for calls and signals, never for a while.

#![allow(clippy::unwrap_used)] // clippy sees a test only in functions that are marked as one

mod coordinator;
mod drain;
mod outages;
mod tasks;

use std::{future::Future, num::NonZeroUsize, sync::Arc, time::Duration};

use coordinator::{Coordinator, TOKEN};
use likeness_proto::{BaseModel, Grant, Incarnation, ModelFacts, Scheduler, Secret, TaskId, TaskKind, v1};
use likeness_worker::{Backoff, BoxFuture, Done, NodeError, NodeOptions, Task, Way, Work, WorkError};
use object_store::memory::InMemory;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

/// Work that is a closure.
struct Doing<F>(F);

impl<F, Fut> Work for Doing<F>
where
    F: Fn(Grant, Task) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Done, WorkError>> + Send + 'static,
{
    fn kinds(&self) -> &[TaskKind] {
        &[TaskKind::Train, TaskKind::Render]
    }

    fn run(&self, grant: Grant, task: Task) -> BoxFuture<'_, Result<Done, WorkError>> {
        Box::pin(self.0(grant, task))
    }
}

/// A running node.
struct Node {
    ended: JoinHandle<Result<(), NodeError>>,
    shutdown: CancellationToken,
}

impl Node {
    /// A node with one slot.
    fn start<F, Fut>(coordinator: &Coordinator, work: F) -> Self
    where
        F: Fn(Grant, Task) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Done, WorkError>> + Send + 'static,
    {
        Self::with(options(coordinator), work)
    }

    fn with<F, Fut>(options: NodeOptions, work: F) -> Self
    where
        F: Fn(Grant, Task) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Done, WorkError>> + Send + 'static,
    {
        let shutdown = CancellationToken::new();
        let ended = tokio::spawn(likeness_worker::run(options, Arc::new(Doing(work)), shutdown.clone()));
        Self { ended, shutdown }
    }

    /// Asks it to stop and waits until it has.
    async fn stop(self) {
        self.shutdown.cancel();
        self.ended.await.unwrap().unwrap();
    }
}

fn options(coordinator: &Coordinator) -> NodeOptions {
    NodeOptions {
        coordinator: Way::to(Endpoint::from_shared(format!("http://{}", coordinator.address)).unwrap()),
        token: Some(Secret::new(TOKEN).unwrap()),
        name: "node-1".into(),
        incarnation: Incarnation::new(),
        models: vec![BaseModel {
            digest: digest().parse().unwrap(),
            name: "tiny".into(),
            facts: ModelFacts { native_size: 64, factor: 8 },
        }],
        slots: NonZeroUsize::MIN,
        bucket: Arc::new(InMemory::new()),
        drain_grace: Duration::from_secs(20),
        backoff: Backoff::new(Duration::from_millis(5), Duration::from_millis(50)).unwrap(),
        registered: Arc::default(),
    }
}

fn digest() -> String {
    format!("sha256:{}", "ab".repeat(32))
}

/// A render task, granted for a minute.
fn render_grant() -> v1::Grant {
    let task = TaskId::new();
    let object = v1::ObjectRef {
        key: format!("v1/acme/anna/train/{task}/1/embedding.safetensors"),
        sha256: vec![1; 32],
        size: 3,
    };
    v1::Grant {
        task_id: task.to_string(),
        fence: 1,
        lease_ms: 60_000,
        attempt: 1,
        job_id: likeness_proto::JobId::new().to_string(),
        subject: "anna".into(),
        output_prefix: format!("v1/acme/anna/render/{task}/1/"),
        base_model: digest(),
        traceparent: String::new(),
        work: Some(v1::grant::Work::Render(v1::RenderWork {
            embedding: Some(object),
            shots: vec![v1::Shot { index: 0, prompt: "{subject}".into(), seed: 0 }],
            negative_prompt: String::new(),
            steps: 1,
            guidance: 1.0,
            scheduler: Scheduler::Ddim.encode(),
            width: 64,
            height: 64,
        })),
    }
}

fn rendered() -> Done {
    let result = v1::RenderResult { avatars: vec![], seconds: 1.0 };
    Done { result: v1::complete_request::Result::Render(result), warnings: vec![] }
}

fn trained() -> Done {
    Done { result: v1::complete_request::Result::Train(v1::TrainResult::default()), warnings: vec![] }
}

/// The report of steps `first..=last`, whose losses are their numbers.
fn steps(first: u32, last: u32) -> v1::renewal::Progress {
    let losses = (first..=last).map(|step| step as f32).collect();
    v1::renewal::Progress::Train(v1::TrainReport { step: last, losses, ..Default::default() })
}

/// A word from inside the work to the test.
fn channel<T>() -> (mpsc::UnboundedSender<T>, mpsc::UnboundedReceiver<T>) {
    mpsc::unbounded_channel()
}
