//! What becomes of a task.

use std::time::{Duration, Instant};

use likeness_proto::{ErrorCode, Refusal, Verdict, v1};
use likeness_worker::{Stop, WorkError};

use crate::{
    Node, channel,
    coordinator::{Call, Coordinator},
    options, render_grant, rendered, steps, trained,
};

#[tokio::test]
async fn a_task_is_granted_done_and_completed() {
    let mut coordinator = Coordinator::start().await;
    let grant = render_grant();
    coordinator.grant(grant.clone());
    let node = Node::start(&coordinator, |grant, task| async move {
        let object = task.bucket().put("00000.png", b"png".to_vec()).await?;
        assert!(grant.output_prefix.contains(&object.key));
        assert_eq!(task.bucket().get(&object).await?, b"png");
        Ok(rendered())
    });
    let registered = coordinator.registered().await;
    let completed = coordinator.completed().await;
    assert_eq!(registered.worker, "node-1");
    assert_eq!((completed.incarnation, completed.task_id), (registered.incarnation, grant.task_id));
    node.stop().await;
}

#[tokio::test]
async fn renewals_keep_a_long_task_alive_while_every_slot_is_taken() {
    let lease = Duration::from_secs(2);
    let mut coordinator = Coordinator::start().await;
    coordinator.lease_for(lease);
    coordinator.grant(v1::Grant { lease_ms: lease.as_millis() as u32, ..render_grant() });
    let (finish, finished) = tokio::sync::watch::channel(false);
    let node = Node::start(&coordinator, move |_grant, task| {
        let mut finished = finished.clone();
        async move {
            tokio::select! {
                _ = finished.wait_for(|finished| *finished) => Ok(rendered()),
                stop = task.stop().wait() => panic!("{stop:?}"),
            }
        }
    });
    assert_eq!(coordinator.asked_for_tasks().await.capacity, 1);

    let begun = Instant::now();
    while begun.elapsed() < lease + lease / 4 {
        let only_renewals = coordinator.next(Some).await;
        assert!(matches!(only_renewals, Call::Renew(_)), "{only_renewals:?}");
    }

    finish.send(true).unwrap();
    coordinator.completed().await;
    assert_eq!(coordinator.asked_for_tasks().await.capacity, 1, "the slot is free again");
    node.stop().await;
}

#[tokio::test]
async fn a_verdict_stops_the_task_and_nothing_more_is_said() {
    for (verdict, stop) in [(Verdict::Lost, Stop::Lost), (Verdict::Cancelled, Stop::Cancelled)] {
        let mut coordinator = Coordinator::start().await;
        coordinator.decide(verdict);
        coordinator.grant(render_grant());
        let (told, mut heard) = channel();
        let node = Node::start(&coordinator, move |_grant, task| {
            let told = told.clone();
            async move {
                told.send(task.stop().wait().await).unwrap();
                Err(WorkError::Stopped)
            }
        });
        assert_eq!(heard.recv().await, Some(stop));
        coordinator.asked_for_tasks().await;
        coordinator.asked_for_tasks().await; // the slot is free: the attempt has ended
        node.stop().await;
        let said = coordinator.unseen();
        assert!(
            !said.iter().any(|call| matches!(call, Call::Complete(_) | Call::Fail(_) | Call::Release(_))),
            "{said:?}"
        );
    }
}

#[tokio::test]
async fn a_lost_task_is_not_completed_even_if_it_ends_well() {
    let mut coordinator = Coordinator::start().await;
    coordinator.decide(Verdict::Lost);
    coordinator.grant(render_grant());
    let node = Node::start(&coordinator, |_grant, task| async move {
        task.stop().wait().await;
        Ok(rendered())
    });
    coordinator.renewed().await;
    coordinator.asked_for_tasks().await;
    node.stop().await;
    assert!(!coordinator.unseen().iter().any(|call| matches!(call, Call::Complete(_))));
}

#[tokio::test]
async fn a_panic_is_reported_and_the_node_goes_on() {
    let mut coordinator = Coordinator::start().await;
    coordinator.grant(render_grant());
    let node = Node::start(&coordinator, |_grant, _task| async move { panic!("row {} is missing", 3) });
    let failed = coordinator.failed().await;
    let error = Refusal::from(failed.error.unwrap());
    assert_eq!(error, Refusal::internal("the work panicked: row 3 is missing"));
    assert!(failed.retry);
    coordinator.asked_for_tasks().await;
    node.stop().await;
}

#[tokio::test]
async fn a_failure_is_reported_as_it_is() {
    let mut coordinator = Coordinator::start().await;
    coordinator.grant(render_grant());
    let node = Node::start(&coordinator, |_grant, _task| async {
        Err(WorkError::Failed { code: ErrorCode::Diverged, message: "the loss is NaN".into(), retry: false })
    });
    let failed = coordinator.failed().await;
    assert_eq!(Refusal::from(failed.error.unwrap()), Refusal::new(ErrorCode::Diverged, "the loss is NaN"));
    assert!(!failed.retry);
    node.stop().await;
}

#[tokio::test]
async fn a_stale_fence_is_dropped_quietly() {
    let mut coordinator = Coordinator::start().await;
    coordinator.refuse("complete", Refusal::new(ErrorCode::StaleFence, "fence 1 is stale"));
    coordinator.grant(render_grant());
    let node = Node::start(&coordinator, |_grant, _task| async { Ok(rendered()) });
    coordinator.completed().await;
    let next = coordinator.next(|call| (!matches!(call, Call::Renew(_))).then_some(call)).await;
    assert!(matches!(next, Call::Lease(_)), "{next:?}");
    node.stop().await;
}

#[tokio::test]
async fn a_refused_result_is_a_failure() {
    let mut coordinator = Coordinator::start().await;
    coordinator.refuse("complete", Refusal::invalid("result is missing"));
    coordinator.grant(render_grant());
    let node = Node::start(&coordinator, |_grant, _task| async { Ok(rendered()) });
    let error = Refusal::from(coordinator.failed().await.error.unwrap());
    assert_eq!(error, Refusal::invalid("the result was refused: result is missing"));
    node.stop().await;
}

#[tokio::test]
async fn a_grant_that_is_not_understood_fails_for_good() {
    let mut coordinator = Coordinator::start().await;
    coordinator.grant(v1::Grant { work: None, ..render_grant() });
    let node = Node::start(&coordinator, |_grant, _task| async { Ok(rendered()) });
    let failed = coordinator.failed().await;
    assert_eq!(Refusal::from(failed.error.unwrap()).code, ErrorCode::InvalidArgument);
    assert!(!failed.retry);
    node.stop().await;
}

#[tokio::test]
async fn every_loss_is_told_once_and_in_order_though_renewals_fail() {
    const STEPS: u32 = 200;
    let mut coordinator = Coordinator::start().await;
    coordinator.grant(render_grant());
    for _ in 0..3 {
        coordinator.refuse("renew", tonic::Status::unavailable("down"));
    }
    let node = Node::start(&coordinator, |_grant, task| async move {
        for step in 1..=STEPS {
            task.report(steps(step, step));
            if step % 50 == 0 {
                task.commit_checkpoint(v1::Checkpoint { object: None, step }).await.unwrap();
            }
        }
        task.report(steps(STEPS + 1, STEPS + 2));
        Ok(trained())
    });

    let mut curve: Vec<f32> = Vec::new();
    let mut learn = |report: v1::TrainReport| {
        curve.truncate(report.step as usize - report.losses.len()); // told again after an answer that got lost
        curve.extend(report.losses);
        assert_eq!(curve.len(), report.step as usize);
    };
    loop {
        match coordinator.next(Some).await {
            Call::Renew(request) => match request.renewals.into_iter().next().unwrap().progress {
                Some(v1::renewal::Progress::Train(report)) => learn(report),
                other => assert!(other.is_none(), "{other:?}"),
            },
            Call::Complete(request) => match request.result {
                Some(v1::complete_request::Result::Train(train)) => break train.last.into_iter().for_each(learn),
                other => panic!("{other:?}"),
            },
            _other => {}
        }
    }
    assert_eq!(coordinator.refusals_left(), 0, "the renewals must have failed");
    let want: Vec<f32> = (1..=STEPS + 2).map(|step| step as f32).collect();
    assert_eq!(curve, want);
    node.stop().await;
}

#[tokio::test]
async fn a_checkpoint_of_a_lost_task_is_not_recorded() {
    let coordinator = Coordinator::start().await;
    coordinator.decide(Verdict::Lost);
    coordinator.grant(render_grant());
    let (told, mut heard) = channel();
    let node = Node::start(&coordinator, move |_grant, task| {
        let told = told.clone();
        async move {
            told.send(task.commit_checkpoint(v1::Checkpoint { object: None, step: 1 }).await).unwrap();
            Err(WorkError::Stopped)
        }
    });
    assert_eq!(heard.recv().await, Some(Err(Stop::Lost)));
    node.stop().await;
}

#[tokio::test]
async fn a_checkpoint_that_is_not_accepted_ends_the_wait_for_it() {
    let mut coordinator = Coordinator::start().await;
    coordinator.refuse("renew", Refusal::invalid("checkpoint.object is missing"));
    coordinator.grant(render_grant());
    let node = Node::start(&coordinator, |_grant, task| async move {
        assert!(task.commit_checkpoint(v1::Checkpoint { object: None, step: 1 }).await.is_err());
        Err(WorkError::Stopped)
    });
    assert!(coordinator.failed().await.retry);
    node.stop().await;
}

#[tokio::test]
async fn as_many_tasks_run_at_once_as_there_are_slots() {
    let mut coordinator = Coordinator::start().await;
    for _ in 0..3 {
        coordinator.grant(render_grant());
    }
    let (told, mut heard) = channel();
    let (finish, finished) = tokio::sync::watch::channel(false);
    let two_slots = likeness_worker::NodeOptions { slots: 2.try_into().unwrap(), ..options(&coordinator) };
    let node = Node::with(two_slots, move |grant, _task| {
        let (told, mut finished) = (told.clone(), finished.clone());
        async move {
            told.send(grant.lease.task).unwrap();
            finished.wait_for(|finished| *finished).await.unwrap();
            Ok(rendered())
        }
    });
    assert_eq!(coordinator.asked_for_tasks().await.capacity, 2);
    heard.recv().await.unwrap();
    heard.recv().await.unwrap();
    coordinator.renewed().await;
    assert!(heard.try_recv().is_err(), "the third waits");
    finish.send(true).unwrap();
    heard.recv().await.unwrap();
    node.stop().await;
}
