//! Results: what becomes visible when a task is done.

use std::collections::BTreeSet;

use likeness_proto::v1;
use likeness_proto::{Avatar, ObjectRef, Outcome, Refusal, TaskId, TaskKind, TaskResult, TrainReport};
use prost::Message;

use super::courses::Place;
use super::rows::record;
use super::{Result, Writing, dialect, fleet, previews, reports, subjects};

/// Records a task's result; the objects it names lie in the bucket.
pub(super) async fn publish(
    w: &mut Writing,
    place: &Place,
    task: TaskId,
    result: &TaskResult,
    progress: &mut v1::SubjectProgress,
) -> Result<()> {
    let kind = fleet::kind_of(&mut w.tx, task).await?;
    match (kind, result) {
        (Some(TaskKind::Train), TaskResult::Train { embedding, outcome, last }) => {
            trained(w, place, task, embedding, outcome, last.as_deref(), progress).await
        }
        (Some(TaskKind::Render), TaskResult::Render { avatars, seconds }) => {
            check_shots(w, place, task, avatars).await?;
            drawn(w, place, avatars).await?;
            progress.rendering.get_or_insert_default().seconds += seconds;
            Ok(())
        }
        (Some(TaskKind::Assemble), TaskResult::Assemble { contact_sheet }) => {
            subjects::commit_object(&mut w.tx, &place.tenant, &place.subject, contact_sheet).await?;
            progress.contact_sheet = Some(contact_sheet.clone().into());
            Ok(())
        }
        (Some(TaskKind::Preview), TaskResult::Preview { picture }) => {
            previews::drawn(w, place, task, picture, progress).await
        }
        (
            _,
            TaskResult::Train { .. }
            | TaskResult::Render { .. }
            | TaskResult::Assemble { .. }
            | TaskResult::Preview { .. },
        ) => Err(Refusal::invalid(format!("the result is not of task {task}'s kind")).into()),
    }
}

async fn trained(
    w: &mut Writing,
    place: &Place,
    task: TaskId,
    object: &ObjectRef,
    outcome: &Outcome,
    last: Option<&TrainReport>,
    progress: &mut v1::SubjectProgress,
) -> Result<()> {
    if let Some(report) = last {
        reports::trained(w, place, task, report, progress).await?;
    }
    let grant: v1::Grant = work(w, place, task).await?;
    let embedding = v1::Embedding {
        object: Some(object.clone().into()),
        token: progress.token.clone(),
        base_model: grant.base_model.clone(),
        job_id: place.job.to_string(),
        vectors: vectors(&grant),
    };
    subjects::commit_object(&mut w.tx, &place.tenant, &place.subject, object).await?;
    progress.trained = Some(encode(outcome));
    progress.embedding = Some(embedding.clone());
    dialect::lock_subject_record(&mut w.tx, &place.tenant, &place.subject).await?;
    if let Some(mut subject) = subjects::find(&mut w.tx, &place.tenant, &place.subject).await? {
        subject.embedding = Some(embedding);
        subjects::save(&mut w.tx, &place.tenant, &subject).await?;
    }
    Ok(())
}

fn encode(outcome: &Outcome) -> v1::TrainOutcome {
    v1::TrainOutcome {
        steps: outcome.steps,
        stop_reason: outcome.stop_reason.encode(),
        evaluation_loss_first: outcome.evaluation_loss_first,
        evaluation_loss_best: outcome.evaluation_loss_best,
        best_step: outcome.best_step,
        seconds: outcome.seconds,
    }
}

fn vectors(grant: &v1::Grant) -> u32 {
    let Some(v1::grant::Work::Train(work)) = &grant.work else { return 0 };
    match work.spec.as_ref().and_then(|spec| spec.method.as_ref()) {
        Some(v1::train_spec::Method::TextualInversion(inversion)) => inversion.vectors.unwrap_or_default(),
        None => 0,
    }
}

pub(super) async fn work(w: &mut Writing, place: &Place, task: TaskId) -> Result<v1::Grant> {
    let stored: Vec<u8> = sqlx::query_scalar("SELECT work FROM tasks WHERE tenant = $1 AND id = $2")
        .bind(place.tenant.as_str())
        .bind(task.to_string())
        .fetch_one(&mut *w.tx)
        .await?;
    record(&stored)
}

/// The avatars must be those asked for: none missing, none else.
async fn check_shots(w: &mut Writing, place: &Place, task: TaskId, avatars: &[Avatar]) -> Result<()> {
    let grant = work(w, place, task).await?;
    let asked: BTreeSet<_> = match grant.work {
        Some(v1::grant::Work::Render(render)) => {
            render.shots.into_iter().map(|shot| (shot.index, shot.prompt, shot.seed)).collect()
        }
        Some(v1::grant::Work::Train(_) | v1::grant::Work::Assemble(_) | v1::grant::Work::Preview(_)) | None => {
            BTreeSet::new()
        }
    };
    let given: BTreeSet<_> = avatars.iter().map(|avatar| (avatar.index, avatar.prompt.clone(), avatar.seed)).collect();
    if asked == given && given.len() == avatars.len() {
        return Ok(());
    }
    let (asked, given) = (asked.len(), avatars.len());
    let message = format!("task {task} brings {given} avatars that are not the {asked} asked for, each once");
    Err(Refusal::invalid(message).into())
}

async fn drawn(w: &mut Writing, place: &Place, avatars: &[Avatar]) -> Result<()> {
    for avatar in avatars {
        subjects::commit_object(&mut w.tx, &place.tenant, &place.subject, &avatar.object).await?;
        sqlx::query("INSERT INTO avatars (tenant, job, subject, position, record) VALUES ($1, $2, $3, $4, $5)")
            .bind(place.tenant.as_str())
            .bind(place.job.to_string())
            .bind(place.subject.as_str())
            .bind(i64::from(avatar.index))
            .bind(v1::Avatar::from(avatar.clone()).encode_to_vec())
            .execute(&mut *w.tx)
            .await?;
    }
    Ok(())
}
