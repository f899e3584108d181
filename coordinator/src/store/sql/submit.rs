//! Accepting a job.

use likeness_proto::v1;
use likeness_proto::{
    BaseModel, ErrorCode, JobId, JobSubject, Refusal, SPEC_VERSION, Specs, Submission, TaskId, TenantId, token_of,
};
use prost::Message;

use super::courses::{self, Place};
use super::rows::parsed;
use super::{Result, Writing, audit, dialect, fleet, jobs, subjects, tenants};
use crate::audit::{Action, Actor, Note};
use crate::lifecycle::{JobState, Planned, Source, SubjectState, plan, small_photos};
use crate::models::choose;
use crate::store::Signal;

pub(super) async fn submit(
    w: &mut Writing,
    tenant: &TenantId,
    submission: &Submission,
    request: [u8; 32],
    by: &Actor,
) -> Result<v1::Job> {
    if let Some(job) = accepted_before(w, tenant, submission, request).await? {
        return jobs::get(&mut w.tx, tenant, job).await;
    }
    tenants::check_jobs(w, tenant).await?;
    let mut named: Vec<_> = submission.subjects.iter().map(|subject| (tenant.clone(), subject.name.clone())).collect();
    named.sort();
    dialect::share_subjects(&mut w.tx, &named).await?;
    let held = fleet::models(&mut w.tx).await?;
    let wanted = submission.base_model.as_ref().or(w.policy.base_model.as_ref());
    let model = choose(&held, wanted)?.clone();
    let specs = submission.resolve(&model.facts)?;
    let job = JobId::new();
    insert_job(w, tenant, job, submission, request, &specs, &model).await?;
    for (position, subject) in submission.subjects.iter().enumerate() {
        let place = Place { tenant: tenant.clone(), job, subject: subject.name.clone() };
        insert_subject(w, &place, position, subject, submission.priority, &specs, &model).await?;
    }
    w.tell(Signal::Ready);
    let accepted = jobs::get(&mut w.tx, tenant, job).await?;
    let note = Note { by, tenant: Some(tenant), action: Action::JobSubmitted, target: w.policy.blind.job(job) };
    audit::append(w, note).await?;
    Ok(accepted)
}

/// The job that this request was answered with before, if it was.
async fn accepted_before(
    w: &mut Writing,
    tenant: &TenantId,
    submission: &Submission,
    request: [u8; 32],
) -> Result<Option<JobId>> {
    let key = &submission.idempotency_key;
    let row: Option<(String, Vec<u8>)> =
        sqlx::query_as("SELECT id, request_sha256 FROM jobs WHERE tenant = $1 AND idempotency_key = $2")
            .bind(tenant.as_str())
            .bind(key.as_str())
            .fetch_optional(&mut *w.tx)
            .await?;
    match row {
        None => Ok(None),
        Some((job, stored)) if stored == request => Ok(Some(parsed("jobs.id", &job)?)),
        Some((job, _)) => {
            let message = format!("idempotency key `{key}` was used for another request (job {job}); use a new key");
            Err(Refusal::new(ErrorCode::IdempotencyConflict, message).into())
        }
    }
}

async fn insert_job(
    w: &mut Writing,
    tenant: &TenantId,
    job: JobId,
    submission: &Submission,
    request: [u8; 32],
    specs: &Specs,
    model: &BaseModel,
) -> Result<()> {
    let record = v1::Job {
        train: specs.train.clone().map(Into::into),
        render: Some(specs.render.clone().into()),
        base_model: model.digest.to_string(),
        spec_version: SPEC_VERSION,
        priority: submission.priority,
        ..Default::default()
    };
    sqlx::query(
        "INSERT INTO jobs (tenant, id, idempotency_key, request_sha256, state, revision, submitted_at, record)
         VALUES ($1, $2, $3, $4, $5, 1, $6, $7)",
    )
    .bind(tenant.as_str())
    .bind(job.to_string())
    .bind(submission.idempotency_key.as_str())
    .bind(request.as_slice())
    .bind(JobState::Queued.encode())
    .bind(w.now.millis())
    .bind(record.encode_to_vec())
    .execute(&mut *w.tx)
    .await?;
    Ok(())
}

async fn insert_subject(
    w: &mut Writing,
    place: &Place,
    position: usize,
    asked: &JobSubject,
    priority: i32,
    specs: &Specs,
    model: &BaseModel,
) -> Result<()> {
    let stored = subjects::get(&mut w.tx, &place.tenant, &place.subject).await?;
    let embedding = match &specs.train {
        Some(_) => None,
        None => Some(finished_embedding(&stored, model)?),
    };
    let token = token_of(&place.subject);
    let source = Source { photos: &stored.photos, init: &asked.init, token: &token };
    let planned = plan(specs, source);
    let progress = v1::SubjectProgress {
        subject: stored.name.clone(),
        state: SubjectState::Queued.encode(),
        token: embedding.as_ref().map_or(token.clone(), |embedding| embedding.token.clone()),
        training: specs
            .train
            .as_ref()
            .map(|spec| v1::TrainProgress { max_steps: spec.max_steps, ..Default::default() }),
        rendering: Some(v1::RenderProgress { avatars_total: specs.render.avatars() as u32, ..Default::default() }),
        warnings: small_photos(specs, &stored.name, &stored.photos),
        embedding,
        init: asked.init.clone(),
        ..Default::default()
    };
    sqlx::query(
        "INSERT INTO job_subjects (tenant, job, subject, position, state, record) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(place.tenant.as_str())
    .bind(place.job.to_string())
    .bind(place.subject.as_str())
    .bind(position as i64)
    .bind(progress.state)
    .bind(progress.encode_to_vec())
    .execute(&mut *w.tx)
    .await?;
    for (position, task) in planned.into_iter().enumerate() {
        insert_task(w, place, position, task, priority, model).await?;
    }
    Ok(())
}

fn finished_embedding(subject: &v1::Subject, model: &BaseModel) -> Result<v1::Embedding> {
    let name = &subject.name;
    let Some(embedding) = subject.embedding.clone() else {
        let message = format!("subject {name} has no finished embedding; submit a job that trains it first");
        return Err(Refusal::new(ErrorCode::NoEmbedding, message).into());
    };
    if embedding.base_model == model.digest.as_str() {
        return Ok(embedding);
    }
    let (theirs, ours) = (&embedding.base_model, &model.digest);
    let message = format!(
        "the embedding of subject {name} was learned on base model {theirs}, the job uses {ours}; train the subject on \
         this model, or name the other one"
    );
    Err(Refusal::new(ErrorCode::ModelMismatch, message).into())
}

async fn insert_task(
    w: &mut Writing,
    place: &Place,
    position: usize,
    task: Planned,
    priority: i32,
    model: &BaseModel,
) -> Result<()> {
    let id = TaskId::new();
    if task.ready {
        w.ready(place, task.kind, id);
    }
    let work = v1::Grant {
        job_id: place.job.to_string(),
        subject: place.subject.to_string(),
        base_model: model.digest.to_string(),
        work: Some(task.work),
        ..Default::default()
    };
    sqlx::query(
        "INSERT INTO tasks (tenant, id, job, subject, position, kind, base_model, queued_at, shots, work, state, priority, cost)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(place.tenant.as_str())
    .bind(id.to_string())
    .bind(place.job.to_string())
    .bind(place.subject.as_str())
    .bind(position as i64)
    .bind(task.kind.encode())
    .bind(model.digest.as_str())
    .bind(w.now.millis())
    .bind(i64::from(task.shots))
    .bind(work.encode_to_vec())
    .bind(courses::first_state(task.ready))
    .bind(i64::from(priority))
    .bind(i64::from(task.cost))
    .execute(&mut *w.tx)
    .await?;
    Ok(())
}
