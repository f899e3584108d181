use super::*;

fn subject(state: SubjectState, step: u32) -> v1::SubjectProgress {
    let training = v1::TrainProgress {
        step,
        max_steps: 400,
        loss: 0.1234,
        evaluation_loss: 0.113,
        steps_per_second: 10.0,
        checkpoint_step: 0,
        preview_step: 0,
    };
    v1::SubjectProgress {
        subject: "ada".to_owned(),
        state: state.into(),
        training: Some(training),
        rendering: Some(v1::RenderProgress { avatars_done: 3, avatars_total: 8, seconds: 1.0 }),
        ..Default::default()
    }
}

fn job(state: SubjectState, step: u32) -> v1::Job {
    v1::Job { subjects: vec![subject(state, step)], ..Default::default() }
}

#[test]
fn a_line_tells_step_loss_rate_and_time_left() {
    let text = line(&subject(SubjectState::Training, 100));
    assert_eq!(text, "step 100/400, loss 0.1234, evaluation 0.1130, 10.0 steps/s, 30 s left at most");
    assert_eq!(line(&subject(SubjectState::Rendering, 0)), "avatar 3/8");
}

#[test]
fn a_training_that_has_not_begun_tells_no_loss() {
    let training = v1::TrainProgress { max_steps: 400, ..Default::default() };
    assert_eq!(super::training(&training), "step 0/400");
}

#[test]
fn plain_lines_come_at_changes_of_state_and_every_tenth() {
    let mut lines = Lines::default();
    assert_eq!(lines.of(&job(SubjectState::Queued, 0)), ["ada: waiting"]);
    assert!(lines.of(&job(SubjectState::Queued, 0)).is_empty());
    let told: usize = (0..=400).map(|step| lines.of(&job(SubjectState::Training, step)).len()).sum();
    assert_eq!(told, 11);
    assert_eq!(lines.of(&job(SubjectState::Succeeded, 0)), ["ada: done"]);
}

#[test]
fn warnings_and_previews_are_told_once() {
    let mut progress = JobProgress::new(&Console::plain());
    let mut job = job(SubjectState::Training, 1);
    job.subjects[0].warnings.push(v1::Warning { message: "only one photo".to_owned(), ..Default::default() });
    progress.show(&job);
    progress.show(&job);
    assert_eq!(progress.told.len(), 1);
    for step in [50, 100] {
        job.subjects[0].previews.push(v1::Preview { step, object: None });
        progress.show(&job);
    }
    assert!(progress.told.contains(&("ada".to_owned(), "preview of step 50 drawn".to_owned())));
    assert_eq!(progress.told.len(), 3);
}
