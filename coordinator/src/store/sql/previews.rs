//! Previews: pictures of how far a training is. A trainer reports its vectors, and a task is queued to draw them; nothing waits for it.

use likeness_proto::v1;
use likeness_proto::{ObjectRef, RenderSpec, Snapshot, TaskId};
use prost::Message;

use super::courses::{self, Place};
use super::rows::{known, record};
use super::{Result, Writing, results, subjects};
use crate::lifecycle::{Course, Effect, Planned, preview};
use crate::store::StoreError;

/// Queues a preview of what training `train` reports, unless there is one of that step or a later one: after a resume, steps come again.
pub(super) async fn queue(
    w: &mut Writing,
    place: &Place,
    course: &mut Course,
    train: TaskId,
    snapshot: &Snapshot,
    progress: &mut v1::SubjectProgress,
) -> Result<Vec<Effect>> {
    let training = known("job_subjects.record", progress.training.as_mut())?;
    let grant = results::work(w, place, train).await?;
    if snapshot.step <= training.preview_step || !course.wants_preview(most(&grant)) {
        return Ok(Vec::new());
    }
    training.preview_step = snapshot.step;
    let planned = preview(&render_spec(w, place).await?, snapshot.step);
    let (id, position) = (TaskId::new(), course.tasks.len());
    insert(w, place, train, &Added { id, position, planned, grant, snapshot }).await?;
    Ok(course.preview(w.now, id))
}

/// A preview to be stored.
struct Added<'a> {
    id: TaskId,
    position: usize,
    planned: Planned,
    /// That of the training.
    grant: v1::Grant,
    snapshot: &'a Snapshot,
}

/// Previews that the training may have in all.
fn most(grant: &v1::Grant) -> u32 {
    match &grant.work {
        Some(v1::grant::Work::Train(work)) => work.spec.as_ref().and_then(|spec| spec.previews).unwrap_or(0),
        Some(v1::grant::Work::Render(_) | v1::grant::Work::Assemble(_) | v1::grant::Work::Preview(_)) | None => 0,
    }
}

async fn render_spec(w: &mut Writing, place: &Place) -> Result<RenderSpec> {
    let stored: Vec<u8> = sqlx::query_scalar("SELECT record FROM jobs WHERE tenant = $1 AND id = $2")
        .bind(place.tenant.as_str())
        .bind(place.job.to_string())
        .fetch_one(&mut *w.tx)
        .await?;
    let job: v1::Job = record(&stored)?;
    let spec = RenderSpec::try_from(known("jobs.record", job.render)?);
    spec.map_err(|error| StoreError::Record(error.message))
}

/// Stores a preview of training `train`: of the same job, model and priority.
async fn insert(w: &mut Writing, place: &Place, train: TaskId, added: &Added<'_>) -> Result<()> {
    let Added { id, position, planned, grant, snapshot } = added;
    let begins = v1::Checkpoint { object: Some(snapshot.embedding.clone().into()), step: snapshot.step };
    let work = v1::Grant { work: Some(planned.work.clone()), ..grant.clone() };
    sqlx::query(
        "INSERT INTO tasks (tenant, id, job, subject, position, kind, base_model, queued_at, ready_at, shots, work, checkpoint, state,
             priority, cost)
         SELECT tenant, $3, job, subject, $4, $5, base_model, $6, $6, $7, $8, $9, $10, priority, $11
         FROM tasks WHERE tenant = $1 AND id = $2",
    )
    .bind(place.tenant.as_str())
    .bind(train.to_string())
    .bind(id.to_string())
    .bind(*position as i64)
    .bind(planned.kind.encode())
    .bind(w.now.millis())
    .bind(i64::from(planned.shots))
    .bind(work.encode_to_vec())
    .bind(begins.encode_to_vec())
    .bind(courses::first_state(planned.ready))
    .bind(i64::from(planned.cost))
    .execute(&mut *w.tx)
    .await?;
    w.ready(&place.tenant, place.job, planned.kind, *id);
    Ok(())
}

/// Shows a preview that was drawn, among the others in the order of their steps.
pub(super) async fn drawn(
    w: &mut Writing,
    place: &Place,
    task: TaskId,
    picture: &ObjectRef,
    progress: &mut v1::SubjectProgress,
) -> Result<()> {
    let step = match results::work(w, place, task).await?.work {
        Some(v1::grant::Work::Preview(work)) => work.step,
        Some(v1::grant::Work::Train(_) | v1::grant::Work::Render(_) | v1::grant::Work::Assemble(_)) | None => 0,
    };
    subjects::commit_object(&mut w.tx, &place.tenant, &place.subject, picture).await?;
    progress.previews.push(v1::Preview { step, object: Some(picture.clone().into()) });
    progress.previews.sort_by_key(|preview| preview.step);
    Ok(())
}
