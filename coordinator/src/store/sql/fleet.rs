//! Workers: who they are, what they hold, and what they are given to do.

use std::collections::BTreeMap;

use likeness_proto::v1;
use likeness_proto::{
    BaseModel, ErrorCode, Incarnation, LeaseAsk, LeaseId, Refusal, Registration, TaskId, TaskKind, output_prefix,
};
use prost::Message;

use super::courses::{self, Place};
use super::rows::{known, parsed, record};
use super::shares::{self, Queue};
use super::{Connection, Result, Writing, census, dialect, reports};
use crate::lifecycle::{Event, Lease, Task, in_order};
use crate::store::{Reach, StoreError};

pub(super) async fn register(w: &mut Writing, registration: &Registration) -> Result<()> {
    let before: Option<String> = sqlx::query_scalar("SELECT incarnation FROM workers WHERE name = $1")
        .bind(&registration.worker)
        .fetch_optional(&mut *w.tx)
        .await?;
    let before: Option<Incarnation> = before.map(|text| parsed("workers.incarnation", &text)).transpose()?;
    if let Some(gone) = before.filter(|before| *before != registration.incarnation) {
        reports::abandon(w, gone).await?;
    }
    let record = v1::RegisterRequest {
        worker: registration.worker.clone(),
        incarnation: registration.incarnation.to_string(),
        kinds: registration.kinds.iter().map(|kind| kind.encode()).collect(),
        models: registration.models.iter().cloned().map(Into::into).collect(),
        software: registration.software.clone(),
        ..Default::default()
    };
    let models = v1::RegisterRequest { models: record.models.clone(), ..Default::default() };
    sqlx::query(
        "INSERT INTO workers (name, incarnation, record, models, seen_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (name) DO UPDATE SET incarnation = excluded.incarnation, record = excluded.record,
             models = excluded.models, seen_at = excluded.seen_at",
    )
    .bind(&registration.worker)
    .bind(registration.incarnation.to_string())
    .bind(record.encode_to_vec())
    .bind(models.encode_to_vec())
    .bind(w.now.millis())
    .execute(&mut *w.tx)
    .await?;
    Ok(())
}

pub(super) async fn models(tx: &mut Connection) -> Result<Vec<BaseModel>> {
    let stored: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT DISTINCT coalesce(models, record) FROM workers").fetch_all(tx).await?;
    let mut models = BTreeMap::new();
    for bytes in stored {
        for model in models_of(&bytes)? {
            models.insert(model.digest.clone(), model);
        }
    }
    Ok(models.into_values().collect())
}

fn models_of(stored: &[u8]) -> Result<Vec<BaseModel>> {
    let worker: v1::RegisterRequest = record(stored)?;
    let models = worker.models.into_iter().map(BaseModel::try_from);
    models.collect::<std::result::Result<_, _>>().map_err(|error| StoreError::Record(error.message))
}

pub(super) async fn claim(w: &mut Writing, ask: &LeaseAsk) -> Result<Vec<v1::Grant>> {
    let worker: Option<(Vec<u8>, i64)> = sqlx::query_as("SELECT record, seen_at FROM workers WHERE incarnation = $1")
        .bind(ask.incarnation.to_string())
        .fetch_optional(&mut *w.tx)
        .await?;
    let Some((worker, seen_at)) = worker else {
        let message = format!("worker incarnation {} is not registered, or another took its name", ask.incarnation);
        return Err(Refusal::new(ErrorCode::UnknownWorker, message).into());
    };
    census::seen(w, ask.incarnation, seen_at).await?;
    let models = models_of(&worker)?;
    let mut grants = Vec::new();
    let ready = ready(w, ask, &models).await?;
    let places: Vec<_> = ready.iter().map(|(_, place)| place.clone()).collect();
    dialect::lock_courses(&mut w.tx, &places, Reach::Own).await?;
    for (task, place) in ready {
        grants.push(grant(w, ask.incarnation, task, &place).await?);
    }
    Ok(grants)
}

/// Tasks that fit, kind after kind, then as they are dealt among tenants.
async fn ready(w: &mut Writing, ask: &LeaseAsk, models: &[BaseModel]) -> Result<Vec<(TaskId, Place)>> {
    let mut ready = Vec::new();
    for kind in in_order(&ask.kinds) {
        for model in models {
            let queue = Queue { kind, model: &model.digest };
            ready.extend(shares::take(w, queue, ask.capacity - ready.len()).await?);
            if ready.len() >= ask.capacity {
                return Ok(ready);
            }
        }
    }
    Ok(ready)
}

async fn grant(w: &mut Writing, holder: Incarnation, id: TaskId, place: &Place) -> Result<v1::Grant> {
    let mut course = courses::load(w, place).await?;
    let lease = Lease { holder, until: w.now + w.policy.lease };
    let effects = course.apply(w.now, id, Event::Granted(lease));
    let effects = effects.map_err(|refused| StoreError::Record(format!("ready task {id} is {refused:?}")))?;
    let task = known("tasks.id", course.tasks.iter().find(|task| task.id == id))?.clone();
    let mut progress = courses::progress(&mut w.tx, place).await?;
    let grant = filled(w, place, &task, &mut progress).await?;
    courses::settle(w, place, &course, &effects, &mut progress).await?;
    Ok(grant)
}

/// The grant with all that earlier tasks and tries have told.
async fn filled(w: &mut Writing, place: &Place, task: &Task, progress: &mut v1::SubjectProgress) -> Result<v1::Grant> {
    use v1::grant::Work;
    let lease = LeaseId { task: task.id, fence: known("tasks.grants", task.fence())? };
    let (work, checkpoint): (Vec<u8>, Option<Vec<u8>>) =
        sqlx::query_as("SELECT work, checkpoint FROM tasks WHERE tenant = $1 AND id = $2")
            .bind(place.tenant.as_str())
            .bind(task.id.to_string())
            .fetch_one(&mut *w.tx)
            .await?;
    let mut grant: v1::Grant = record(&work)?;
    match known("tasks.work", grant.work.as_mut())? {
        Work::Train(train) => {
            train.checkpoint = checkpoint.map(|bytes| record(&bytes)).transpose()?;
            if let Some(training) = &mut progress.training {
                training.step = train.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step);
            }
        }
        Work::Render(render) => {
            render.embedding = progress.embedding.as_ref().and_then(|embedding| embedding.object.clone());
        }
        Work::Assemble(assemble) => assemble.avatars = avatars(&mut w.tx, place).await?,
        Work::Preview(preview) => {
            let begins: Option<v1::Checkpoint> = checkpoint.map(|bytes| record(&bytes)).transpose()?;
            let render = known("tasks.work", preview.render.as_mut())?;
            render.embedding = begins.and_then(|begins| begins.object);
        }
    }
    Ok(v1::Grant {
        task_id: task.id.to_string(),
        fence: lease.fence.get(),
        lease_ms: w.policy.lease.as_millis() as u32,
        attempt: task.attempt(),
        output_prefix: output_prefix(&place.tenant, &place.subject, task.kind, lease).to_string(),
        ..grant
    })
}

async fn avatars(tx: &mut Connection, place: &Place) -> Result<Vec<v1::Avatar>> {
    let stored: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT record FROM avatars WHERE tenant = $1 AND job = $2 AND subject = $3 ORDER BY position",
    )
    .bind(place.tenant.as_str())
    .bind(place.job.to_string())
    .bind(place.subject.as_str())
    .fetch_all(tx)
    .await?;
    stored.iter().map(|bytes| record(bytes)).collect()
}

/// What a task is, for those who report about it.
pub(super) async fn kind_of(tx: &mut Connection, task: TaskId) -> Result<Option<TaskKind>> {
    let kind: Option<i32> =
        sqlx::query_scalar("SELECT kind FROM tasks WHERE id = $1").bind(task.to_string()).fetch_optional(tx).await?;
    kind.map(|kind| TaskKind::decode(kind).map_err(|error| StoreError::Record(error.message))).transpose()
}
