//! A coordinator that is down, comes back, or does not want this worker.

use std::time::Duration;

use likeness_proto::{ErrorCode, PROTOCOL_VERSION, Refusal, Secret, v1};
use likeness_worker::{NodeError, NodeOptions, Stop, WorkError};
use tokio::sync::watch;
use tonic::Status;

use crate::{
    Node, channel,
    coordinator::{Call, Coordinator},
    options, render_grant, rendered,
};

#[tokio::test]
async fn a_coordinator_that_is_down_at_the_start_is_waited_for() {
    let mut coordinator = Coordinator::closed().await;
    let node = Node::start(&coordinator, |_grant, _task| async { Ok(rendered()) });
    coordinator.grant(render_grant());
    coordinator.open().await;
    assert_eq!(coordinator.registered().await.protocol_version, PROTOCOL_VERSION);
    coordinator.completed().await;
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_waits_for_its_coordinator_can_be_stopped() {
    let coordinator = Coordinator::closed().await;
    Node::start(&coordinator, |_grant, _task| async { Ok(rendered()) }).stop().await;
}

#[tokio::test]
async fn tasks_go_on_while_the_coordinator_is_down_in_the_middle() {
    let mut coordinator = Coordinator::start().await;
    coordinator.grant(render_grant());
    let (finish, finished) = watch::channel(false);
    let node = Node::start(&coordinator, move |_grant, task| {
        let mut finished = finished.clone();
        async move {
            finished.wait_for(|finished| *finished).await.unwrap();
            assert_eq!(task.stop().requested(), None);
            Ok(rendered())
        }
    });
    coordinator.renewed().await;
    coordinator.kill().await;
    coordinator.unseen();
    coordinator.open().await;
    coordinator.renewed().await;
    finish.send(true).unwrap();
    coordinator.completed().await;
    coordinator.asked_for_tasks().await;
    node.stop().await;
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_in_time_is_lost() {
    let mut coordinator = Coordinator::start().await;
    let lease = Duration::from_millis(500);
    coordinator.lease_for(lease);
    coordinator.grant(v1::Grant { lease_ms: lease.as_millis() as u32, ..render_grant() });
    let (told, mut heard) = channel();
    let node = Node::start(&coordinator, move |_grant, task| {
        let told = told.clone();
        async move {
            told.send(None).unwrap();
            told.send(Some(task.stop().wait().await)).unwrap();
            Err(WorkError::Stopped)
        }
    });
    assert_eq!(heard.recv().await, Some(None), "it has begun");
    coordinator.kill().await;
    assert_eq!(heard.recv().await, Some(Some(Stop::Lost)));

    coordinator.unseen();
    coordinator.open().await;
    let next = coordinator.next(Some).await;
    assert!(matches!(next, Call::Lease(_)), "nothing is said of the lost task: {next:?}");
    node.stop().await;
}

#[tokio::test]
async fn a_completion_is_said_again_until_it_is_heard() {
    let mut coordinator = Coordinator::start().await;
    coordinator.refuse("complete", Status::unavailable("starting"));
    coordinator.refuse("complete", Refusal::new(ErrorCode::StorageFull, "the disk is full"));
    coordinator.refuse("complete", Refusal::new(ErrorCode::UnknownWorker, "who are you"));
    coordinator.grant(render_grant());
    let node = Node::start(&coordinator, |_grant, _task| async { Ok(rendered()) });
    coordinator.registered().await;
    for _ in 0..3 {
        coordinator.completed().await;
    }
    coordinator.registered().await;
    coordinator.completed().await;
    assert_eq!(coordinator.refusals_left(), 0);
    node.stop().await;
}

#[tokio::test]
async fn an_incarnation_that_is_forgotten_registers_again() {
    for call in ["lease", "renew"] {
        let mut coordinator = Coordinator::start().await;
        coordinator.refuse(call, Refusal::new(ErrorCode::UnknownWorker, "who are you"));
        coordinator.grant(render_grant());
        let node = Node::start(&coordinator, |_grant, task| async move {
            task.stop().wait().await;
            Err(WorkError::Stopped)
        });
        let first = coordinator.registered().await.incarnation;
        assert_eq!(coordinator.registered().await.incarnation, first);
        coordinator.renewed().await;
        node.stop().await;
    }
}

#[tokio::test]
async fn a_worker_of_another_version_ends() {
    let coordinator = Coordinator::start().await;
    let refusal = Refusal::new(ErrorCode::VersionMismatch, "the worker speaks protocol version 1; accepted is 2");
    coordinator.refuse("register", refusal.clone());
    let node = Node::start(&coordinator, |_grant, _task| async { Ok(rendered()) });
    let error = node.ended.await.unwrap().unwrap_err();
    assert_eq!(error, NodeError::Refused(refusal));
    assert!(error.to_string().contains("accepted is 2"), "{error}");
}

#[tokio::test]
async fn a_worker_with_a_wrong_token_ends() {
    let mut coordinator = Coordinator::start().await;
    let wrong = NodeOptions { token: Some(Secret::new("guess").unwrap()), ..options(&coordinator) };
    let node = Node::with(wrong, |_grant, _task| async { Ok(rendered()) });
    let NodeError::Refused(refusal) = node.ended.await.unwrap().unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Unauthenticated);
    assert_eq!(coordinator.unseen().len(), 1, "it does not try again");
}
