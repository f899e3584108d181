//! A node that is asked to stop.

use std::time::Duration;

use likeness_proto::{Verdict, v1};
use likeness_worker::{NodeOptions, Stop, WorkError};

use crate::{
    Node, channel,
    coordinator::{Call, Coordinator},
    options, render_grant, rendered,
};

#[tokio::test]
async fn a_drained_task_commits_a_checkpoint_and_is_given_back() {
    let mut coordinator = Coordinator::start().await;
    let grant = render_grant();
    coordinator.grant(grant.clone());
    let node = Node::start(&coordinator, |_grant, task| async move {
        assert_eq!(task.stop().wait().await, Stop::Draining);
        task.commit_checkpoint(v1::Checkpoint { object: None, step: 7 }).await.unwrap();
        Err(WorkError::Stopped)
    });
    coordinator.renewed().await;
    node.stop().await;

    let calls = coordinator.unseen();
    let committed = calls.iter().position(|call| matches!(call, Call::Renew(request) if step(request) == Some(7)));
    let released =
        calls.iter().position(|call| matches!(call, Call::Release(request) if request.task_id == grant.task_id));
    assert!(committed.is_some() && committed < released, "{calls:?}");
    assert!(!calls[committed.unwrap()..].iter().any(|call| matches!(call, Call::Lease(_))));
}

/// The checkpoint that a renewal commits.
fn step(request: &v1::RenewRequest) -> Option<u32> {
    match request.renewals.first()?.progress.as_ref()? {
        v1::renewal::Progress::Train(report) => report.checkpoint.as_ref().map(|checkpoint| checkpoint.step),
        v1::renewal::Progress::Render(_) => None,
    }
}

#[tokio::test]
async fn a_task_that_ends_during_the_drain_is_completed() {
    let mut coordinator = Coordinator::start().await;
    coordinator.grant(render_grant());
    let node = Node::start(&coordinator, |_grant, task| async move {
        task.stop().wait().await;
        Ok(rendered())
    });
    coordinator.renewed().await;
    node.stop().await;
    assert!(coordinator.unseen().iter().any(|call| matches!(call, Call::Complete(_))));
}

#[tokio::test]
async fn a_task_that_does_not_stop_is_given_back_after_the_grace_and_may_write_no_more() {
    let mut coordinator = Coordinator::start().await;
    coordinator.grant(render_grant());
    let (told, mut heard) = channel();
    let short = NodeOptions { drain_grace: Duration::from_millis(50), ..options(&coordinator) };
    let node = Node::with(short, move |_grant, task| {
        told.send(task.stop().clone()).unwrap();
        std::future::pending()
    });
    let signal = heard.recv().await.unwrap();
    coordinator.renewed().await;
    node.stop().await;
    assert_eq!(signal.requested(), Some(Stop::Lost));
    coordinator.released().await;
}

#[tokio::test]
async fn a_task_that_is_cancelled_during_the_drain_is_not_given_back() {
    let mut coordinator = Coordinator::start().await;
    coordinator.grant(render_grant());
    let (told, mut heard) = channel();
    let node = Node::start(&coordinator, move |_grant, task| {
        let told = told.clone();
        async move {
            told.send(task.stop().wait().await).unwrap();
            let _ = task.commit_checkpoint(v1::Checkpoint { object: None, step: 7 }).await;
            Err(WorkError::Stopped)
        }
    });
    coordinator.renewed().await;
    coordinator.decide(Verdict::Cancelled);
    node.stop().await;
    assert!(heard.recv().await.is_some());
    assert!(!coordinator.unseen().iter().any(|call| matches!(call, Call::Release(_))));
}
