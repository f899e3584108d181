//! Accepting a job.

use likeness_proto::v1;
use likeness_proto::{BaseModel, ErrorCode, JobId, Refusal, SPEC_VERSION, Specs, Submission, TenantId};
use prost::Message;

use super::outset::{Order, courses_of};
use super::rows::parsed;
use super::{Result, Writing, audit, dialect, fleet, jobs, tenants};
use crate::audit::{Action, Actor, Note};
use crate::lifecycle::JobState;
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
    let traceparent = submission.traceparent.as_deref().unwrap_or_default();
    let order = Order { tenant, job, priority: submission.priority, specs: &specs, model: &model, traceparent };
    courses_of(w, &order, &submission.subjects).await?;
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
