use super::*;

/// The report of steps `first..=last`, whose losses are their numbers.
fn steps(first: u32, last: u32) -> v1::TrainReport {
    v1::TrainReport { step: last, losses: (first..=last).map(|step| step as f32).collect(), ..Default::default() }
}

fn told(progress: &Progress) -> v1::TrainReport {
    match progress.report() {
        Some(Report::Train(report)) => report,
        other => panic!("{other:?}"),
    }
}

fn checkpoint(step: u32) -> v1::Checkpoint {
    v1::Checkpoint { object: None, step }
}

#[test]
fn reports_are_joined_in_order() {
    let mut progress = Progress::default();
    let evaluation = v1::Evaluation { step: 2, loss: 0.5 };
    progress.add(Report::Train(v1::TrainReport { evaluations: vec![evaluation], ..steps(1, 2) }));
    progress.add(Report::Train(steps(3, 3)));
    assert_eq!(told(&progress), v1::TrainReport { evaluations: vec![evaluation], ..steps(1, 3) });
}

#[test]
fn what_was_not_heard_is_told_again_before_what_came_since() {
    let mut progress = Progress::default();
    progress.add(Report::Train(steps(1, 2)));
    let taken = progress.take();
    assert!(progress.report().is_none());
    progress.add(Report::Train(steps(3, 4)));
    progress.put_back(taken);
    assert_eq!(told(&progress), steps(1, 4));
}

#[test]
fn a_hole_never_shifts_losses_to_other_steps() {
    let mut progress = Progress::default();
    progress.add(Report::Train(steps(1, 2)));
    progress.add(Report::Train(steps(5, 6)));
    assert_eq!(told(&progress), steps(5, 6));
}

#[test]
fn numbers_that_are_not_finite_are_not_told() {
    let mut progress = Progress::default();
    progress.add(Report::Train(v1::TrainReport { losses: vec![f32::NAN], ..steps(1, 1) }));
    assert!(progress.report().is_none());
    progress.add(Report::Train(v1::TrainReport { steps_per_second: f32::INFINITY, ..steps(1, 1) }));
    assert_eq!(told(&progress), steps(1, 1));
}

#[test]
fn the_latest_count_of_avatars_is_told() {
    let mut progress = Progress::default();
    for avatars_done in [1, 2] {
        progress.add(Report::Render(v1::RenderReport { avatars_done }));
    }
    assert_eq!(progress.report(), Some(Report::Render(v1::RenderReport { avatars_done: 2 })));
}

#[test]
fn a_checkpoint_is_recorded_when_it_is_answered() {
    let mut progress = Progress::default();
    progress.add(Report::Train(steps(1, 3)));
    let mut recorded = progress.commit(checkpoint(3));
    let taken = progress.take();
    progress.put_back(taken);
    assert!(recorded.try_recv().is_err(), "not heard yet");
    assert_eq!(told(&progress), v1::TrainReport { checkpoint: Some(checkpoint(3)), ..steps(1, 3) });
    progress.take().answered();
    assert_eq!(recorded.try_recv(), Ok(()));
}

#[test]
fn a_later_checkpoint_stands_for_an_earlier_one() {
    let mut progress = Progress::default();
    let mut first = progress.commit(checkpoint(1));
    let mut second = progress.commit(checkpoint(2));
    assert_eq!(told(&progress).checkpoint, Some(checkpoint(2)));
    progress.take().answered();
    assert_eq!((first.try_recv(), second.try_recv()), (Ok(()), Ok(())));
}

#[test]
fn the_newest_vectors_go_along_and_take_nothing_back() {
    let snapshot = |step| v1::Snapshot { embedding: None, step };
    let mut progress = Progress::default();
    progress.add(Report::Train(steps(1, 3)));
    progress.preview(snapshot(1));
    progress.preview(snapshot(2));
    let taken = progress.take();
    progress.preview(snapshot(3));
    progress.put_back(taken);
    assert_eq!(told(&progress), v1::TrainReport { preview: Some(snapshot(3)), ..steps(1, 3) });
    assert_eq!(progress.take().into_last(None), Some(steps(1, 3)), "nobody wants it at the end");
}

#[test]
fn the_result_tells_what_no_renewal_has() {
    let mut progress = Progress::default();
    progress.add(Report::Train(steps(1, 2)));
    assert_eq!(progress.take().into_last(None), Some(steps(1, 2)));
    progress.add(Report::Train(steps(3, 4)));
    assert_eq!(progress.take().into_last(Some(steps(5, 5))), Some(steps(3, 5)));
    assert_eq!(Progress::default().into_last(Some(steps(5, 5))), Some(steps(5, 5)));
    assert_eq!(Progress::default().into_last(None), None);
}
