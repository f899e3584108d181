//! What the demo found, as `report.json`.

use super::Similarity;
use crate::exit::Failure;
use crate::view::{JobView, OutcomeView};
use likeness_proto::v1;
use serde::Serialize;
use std::path::Path;

/// The demo in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The subject.
    pub subject: String,
    /// The base model's digest.
    pub base_model: String,
    /// Seconds of learning.
    pub train_seconds: f64,
    /// Seconds of drawing.
    pub render_seconds: f64,
    /// Steps learned.
    pub steps: u32,
    /// Why learning stopped: converged or max_steps.
    pub stop_reason: String,
    /// Loss on the fixed evaluation set before the first step.
    pub eval_loss_first: f32,
    /// Loss on the fixed evaluation set of the vectors kept.
    pub eval_loss_best: f32,
    /// Avatars drawn.
    pub avatars: usize,
    /// Mean cosine of VAE latents between the avatars and the subject's photos.
    pub similarity_own: f64,
    /// Mean cosine of VAE latents between the avatars and the other bundled subjects' photos.
    pub similarity_others: f64,
}

impl Report {
    /// Of a finished job with one subject.
    ///
    /// # Errors
    /// When the job has no trained subject.
    pub fn of(job: &v1::Job, similarity: &Similarity) -> Result<Self, Failure> {
        let job = JobView::from(job);
        let untrained = || Failure::unexpected(format!("job {} has no trained subject", job.id));
        let subject = job.subjects.first().ok_or_else(untrained)?;
        let OutcomeView { steps, stop_reason, eval_loss_first, eval_loss_best, seconds, .. } =
            subject.trained.clone().ok_or_else(untrained)?;
        Ok(Self {
            subject: subject.subject.clone(),
            base_model: job.base_model.clone(),
            train_seconds: seconds,
            render_seconds: subject.render_seconds,
            steps,
            stop_reason,
            eval_loss_first,
            eval_loss_best,
            avatars: subject.avatars.len(),
            similarity_own: similarity.own,
            similarity_others: similarity.others,
        })
    }

    /// For people, with where the files are.
    #[must_use]
    pub fn page(&self, dir: &Path) -> String {
        let Self { subject, steps, train_seconds, render_seconds, avatars, .. } = self;
        let dir = dir.display();
        [
            format!("learned {subject} in {steps} steps, {train_seconds:.1} s ({})", self.stop_reason),
            format!("evaluation loss {:.4} → {:.4}", self.eval_loss_first, self.eval_loss_best),
            format!("drew {avatars} avatars in {render_seconds:.1} s"),
            format!("similar to its photos {:.3}, to others' {:.3}", self.similarity_own, self.similarity_others),
            String::new(),
            format!("contact sheet  {dir}/contact-sheet.png"),
            format!("avatars        {dir}/avatars/"),
            format!("loss curve     {dir}/loss.png"),
            format!("embedding      {dir}/embedding.safetensors"),
            format!("report         {dir}/report.json"),
        ]
        .join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use likeness_proto::v1::StopReason;

    fn job(trained: Option<v1::TrainOutcome>) -> v1::Job {
        let subject = v1::SubjectProgress {
            subject: "subject-01".to_owned(),
            trained,
            rendering: Some(v1::RenderProgress { avatars_done: 8, avatars_total: 8, seconds: 4.0 }),
            avatars: vec![v1::Avatar::default(); 8],
            ..Default::default()
        };
        v1::Job { subjects: vec![subject], ..Default::default() }
    }

    #[test]
    fn a_report_has_the_jobs_numbers_under_stable_names() {
        let outcome = v1::TrainOutcome {
            steps: 125,
            stop_reason: StopReason::Converged.into(),
            evaluation_loss_first: 0.5,
            evaluation_loss_best: 0.25,
            best_step: 100,
            seconds: 14.0,
        };
        let report = Report::of(&job(Some(outcome)), &Similarity { own: 0.5, others: 0.25 }).unwrap();
        let json = serde_json::to_value(&report).unwrap();
        for (key, value) in [
            ("train_seconds", 14.0),
            ("render_seconds", 4.0),
            ("steps", 125.0),
            ("eval_loss_first", 0.5),
            ("eval_loss_best", 0.25),
            ("avatars", 8.0),
            ("similarity_own", 0.5),
            ("similarity_others", 0.25),
        ] {
            assert_eq!(json[key].as_f64(), Some(value), "{key}");
        }
        assert_eq!(json["stop_reason"], "converged");
        assert!(report.page(Path::new("out")).contains("out/contact-sheet.png"));
    }

    #[test]
    fn an_untrained_job_makes_no_report() {
        assert!(Report::of(&job(None), &Similarity { own: 0.0, others: 0.0 }).is_err());
    }
}
