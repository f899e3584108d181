//! The same data for people.

use super::{JobView, ReceiptView, SubjectProgressView, SubjectView};
use crate::output::columns;

/// Jobs, a line each.
#[must_use]
pub fn job_list(jobs: &[JobView]) -> String {
    let head = ["JOB", "STATE", "SUBMITTED", "SUBJECTS", "AVATARS"].map(str::to_owned);
    let row = |job: &JobView| {
        let done: u32 = job.subjects.iter().map(|subject| subject.avatars_done).sum();
        let total: u32 = job.subjects.iter().map(|subject| subject.avatars_total).sum();
        [job.id.clone(), job.state.clone(), seconds_of(&job.submitted_at), names(job), format!("{done}/{total}")]
    };
    columns(&[head].into_iter().chain(jobs.iter().map(row)).collect::<Vec<_>>())
}

/// One job with its subjects.
#[must_use]
pub fn job_page(job: &JobView) -> String {
    let mut lines = vec![
        format!("job        {}", job.id),
        format!("state      {}", job.state),
        format!("submitted  {}", seconds_of(&job.submitted_at)),
    ];
    if job.ended_at.is_some() {
        lines.push(format!("ended      {}", seconds_of(&job.ended_at)));
    }
    lines.push(format!("model      {}", job.base_model));
    lines.extend(job.subjects.iter().map(subject_block));
    lines.join("\n")
}

/// Subjects, a line each.
#[must_use]
pub fn subject_list(subjects: &[SubjectView]) -> String {
    let head = ["SUBJECT", "PHOTOS", "STORED", "EMBEDDING"].map(str::to_owned);
    let row = |subject: &SubjectView| {
        let embedding = subject.embedding.as_ref().map_or("-", |embedding| embedding.token.as_str());
        [subject.name.clone(), subject.photos.len().to_string(), seconds_of(&subject.stored_at), embedding.to_owned()]
    };
    columns(&[head].into_iter().chain(subjects.iter().map(row)).collect::<Vec<_>>())
}

/// What was erased.
#[must_use]
pub fn receipt(receipt: &ReceiptView) -> String {
    let ReceiptView { photos, checkpoints, embeddings, avatars, others, bytes, .. } = receipt;
    let mut lines = vec![
        format!("erased {} at {}", receipt.subject, seconds_of(&receipt.erased_at)),
        format!(
            "{photos} photos, {checkpoints} checkpoints, {embeddings} embeddings, {avatars} avatars, {others} others"
        ),
        format!("{bytes} bytes"),
    ];
    lines.extend(receipt.jobs.iter().map(|job| format!("job {job} lost this subject")));
    lines.extend(receipt.objects.iter().map(|hash| format!("object {hash}")));
    lines.push(format!("audit entry {} {}", receipt.audit_sequence, receipt.audit_hash));
    lines.push(format!("receipt {}", receipt.receipt_id));
    lines.join("\n")
}

fn subject_block(subject: &SubjectProgressView) -> String {
    let mut lines = vec![format!("\n{}  {}", subject.subject, subject.state)];
    if let Some(trained) = &subject.trained {
        lines.push(format!(
            "  learned in {} steps, {:.1} s ({}); evaluation loss {:.4} → {:.4}, best at step {}",
            trained.steps,
            trained.seconds,
            trained.stop_reason,
            trained.eval_loss_first,
            trained.eval_loss_best,
            trained.best_step
        ));
    } else if subject.max_steps > 0 {
        lines.push(format!("  step {} of at most {}, loss {:.4}", subject.step, subject.max_steps, subject.loss));
    }
    if !subject.previews.is_empty() {
        let steps: Vec<_> = subject.previews.iter().map(|preview| preview.step.to_string()).collect();
        lines.push(format!("  previews of steps {}", steps.join(", ")));
    }
    if subject.avatars_total > 0 {
        lines.push(format!(
            "  {} of {} avatars, {:.1} s",
            subject.avatars_done, subject.avatars_total, subject.render_seconds
        ));
    }
    lines.extend(subject.warnings.iter().map(|warning| format!("  warning: {}", warning.message)));
    lines.extend(subject.error.iter().map(|error| format!("  error: {} ({})", error.message, error.code)));
    lines.join("\n")
}

fn names(job: &JobView) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<_> = job.subjects.iter().take(SHOWN).map(|subject| subject.subject.as_str()).collect();
    match job.subjects.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A time without its fraction.
fn seconds_of(time: &Option<String>) -> String {
    let Some(time) = time else { return "-".to_owned() };
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time.clone(),
    }
}
