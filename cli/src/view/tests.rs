use super::*;
use likeness_proto::v1::{JobState, StopReason, SubjectState};

fn job() -> v1::Job {
    let subject = v1::SubjectProgress {
        subject: "ada".to_owned(),
        state: SubjectState::Succeeded.into(),
        trained: Some(v1::TrainOutcome {
            steps: 125,
            stop_reason: StopReason::Converged.into(),
            evaluation_loss_first: 0.165,
            evaluation_loss_best: 0.1122,
            best_step: 100,
            seconds: 14.5,
        }),
        rendering: Some(v1::RenderProgress { avatars_done: 8, avatars_total: 8, seconds: 3.2 }),
        contact_sheet: Some(v1::ObjectRef { key: "v1/a".to_owned(), sha256: vec![0xab; 32], size: 9 }),
        ..Default::default()
    };
    v1::Job {
        id: "0190".to_owned(),
        state: JobState::PartlyFailed.into(),
        submitted_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 }),
        subjects: vec![subject],
        ..Default::default()
    }
}

#[test]
fn a_job_is_told_in_names_and_hex() {
    let json = serde_json::to_value(JobView::from(&job())).unwrap();
    assert_eq!(json["state"], "partly_failed");
    assert_eq!(json["submitted_at"], "2023-11-14T22:13:20.005Z");
    assert_eq!(json["ended_at"], serde_json::Value::Null);
    assert_eq!(json["subjects"][0]["state"], "succeeded");
    assert_eq!(json["subjects"][0]["trained"]["stop_reason"], "converged");
    assert_eq!(json["subjects"][0]["contact_sheet"]["sha256"], "ab".repeat(32));
}

#[test]
fn a_list_of_jobs_lines_up() {
    let text = job_list(&[JobView::from(&job())]);
    assert_eq!(
        text,
        "JOB   STATE          SUBMITTED             SUBJECTS  AVATARS\n\
         0190  partly_failed  2023-11-14T22:13:20Z  ada       8/8"
    );
}

#[test]
fn a_job_page_tells_how_the_subject_was_learned() {
    let text = job_page(&JobView::from(&job()));
    assert!(text.contains("learned in 125 steps, 14.5 s (converged); evaluation loss 0.1650 → 0.1122"), "{text}");
    assert!(text.contains("8 of 8 avatars"), "{text}");
}
