//! The outset of a job: its subjects and their tasks as rows, many in a statement, since a job may have a thousand subjects.

use std::collections::BTreeMap;

use likeness_proto::v1;
use likeness_proto::{
    BaseModel, ErrorCode, JobId, JobSubject, Refusal, Specs, SubjectName, TaskId, TenantId, token_of,
};
use prost::Message;
use sqlx::QueryBuilder;

use super::courses;
use super::dialect::Db;
use super::rows::{parsed, record};
use super::{Result, Writing};
use crate::lifecycle::{Planned, Source, SubjectState, plan, small_photos};
use crate::store::refusals;

/// Rows of one statement: a statement takes some 30,000 values, and a task has 13.
const ROWS: usize = 500;

/// What all subjects of a job have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) job: JobId,
    pub(super) priority: i32,
    pub(super) specs: &'a Specs,
    pub(super) model: &'a BaseModel,
    /// Empty: nobody traces it.
    pub(super) traceparent: &'a str,
}

/// Stores the courses of a job's subjects, none of which has begun.
pub(super) async fn courses_of(w: &mut Writing, order: &Order<'_>, asked: &[JobSubject]) -> Result<()> {
    let stored = stored(w, order.tenant, asked).await?;
    let (mut courses, mut tasks) = (Vec::with_capacity(asked.len()), Vec::new());
    for subject in asked {
        let known = stored.get(&subject.name).ok_or_else(|| refusals::unknown_subject(&subject.name))?;
        let token = token_of(&subject.name);
        let source = Source { photos: &known.photos, init: &subject.init, token: &token };
        courses.push((&subject.name, progress(order, known, subject, &token)?));
        tasks.extend(plan(order.specs, source).into_iter().enumerate().map(|(at, task)| (&subject.name, at, task)));
    }
    insert_courses(w, order, courses).await?;
    insert_tasks(w, order, tasks).await
}

/// The subjects that are stored of those asked for.
async fn stored(
    w: &mut Writing,
    tenant: &TenantId,
    asked: &[JobSubject],
) -> Result<BTreeMap<SubjectName, v1::Subject>> {
    let mut stored = BTreeMap::new();
    for some in asked.chunks(ROWS) {
        let mut query = QueryBuilder::<Db>::new("SELECT name, record FROM subjects WHERE tenant = ");
        query.push_bind(tenant.as_str()).push(" AND name IN (");
        let mut names = query.separated(", ");
        for subject in some {
            names.push_bind(subject.name.as_str());
        }
        query.push(")");
        let rows: Vec<(String, Vec<u8>)> = query.build_query_as().fetch_all(&mut *w.tx).await?;
        for (name, bytes) in rows {
            stored.insert(parsed("subjects.name", &name)?, record(&bytes)?);
        }
    }
    Ok(stored)
}

fn progress(order: &Order<'_>, stored: &v1::Subject, asked: &JobSubject, token: &str) -> Result<v1::SubjectProgress> {
    let specs = order.specs;
    let embedding = match &specs.train {
        Some(_) => None,
        None => Some(finished_embedding(stored, order.model)?),
    };
    let training = |max_steps| v1::TrainProgress { max_steps, ..Default::default() };
    Ok(v1::SubjectProgress {
        subject: stored.name.clone(),
        state: SubjectState::Queued.encode(),
        token: embedding.as_ref().map_or(token, |embedding| &embedding.token).to_owned(),
        training: specs.train.as_ref().map(|spec| training(spec.max_steps)),
        rendering: Some(v1::RenderProgress { avatars_total: specs.render.avatars() as u32, ..Default::default() }),
        warnings: small_photos(specs, &stored.name, &stored.photos),
        embedding,
        init: asked.init.clone(),
        ..Default::default()
    })
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

async fn insert_courses(
    w: &mut Writing,
    order: &Order<'_>,
    courses: Vec<(&SubjectName, v1::SubjectProgress)>,
) -> Result<()> {
    let rows: Vec<_> = courses.into_iter().enumerate().collect();
    for some in rows.chunks(ROWS) {
        let mut query =
            QueryBuilder::<Db>::new("INSERT INTO job_subjects (tenant, job, subject, position, state, record) ");
        query.push_values(some, |mut row, (position, (name, progress))| {
            row.push_bind(order.tenant.as_str()).push_bind(order.job.to_string()).push_bind(name.as_str());
            row.push_bind(*position as i64).push_bind(progress.state).push_bind(progress.encode_to_vec());
        });
        query.build().execute(&mut *w.tx).await?;
    }
    Ok(())
}

async fn insert_tasks(w: &mut Writing, order: &Order<'_>, tasks: Vec<(&SubjectName, usize, Planned)>) -> Result<()> {
    let now = w.now.millis();
    for some in tasks.chunks(ROWS) {
        let mut readied = Vec::new();
        let mut query = QueryBuilder::<Db>::new(
            "INSERT INTO tasks (tenant, id, job, subject, position, kind, base_model, queued_at, shots, work, state, priority, cost) ",
        );
        query.push_values(some, |mut row, (name, position, task)| {
            let id = TaskId::new();
            if task.ready {
                readied.push((task.kind, id));
            }
            row.push_bind(order.tenant.as_str()).push_bind(id.to_string()).push_bind(order.job.to_string());
            row.push_bind(name.as_str()).push_bind(*position as i64).push_bind(task.kind.encode());
            row.push_bind(order.model.digest.as_str()).push_bind(now).push_bind(i64::from(task.shots));
            row.push_bind(grant(order, name, task).encode_to_vec()).push_bind(courses::first_state(task.ready));
            row.push_bind(i64::from(order.priority)).push_bind(i64::from(task.cost));
        });
        query.build().execute(&mut *w.tx).await?;
        for (kind, id) in readied {
            w.ready(order.tenant, order.job, kind, id);
        }
    }
    Ok(())
}

/// What is known of a grant before anything was done.
fn grant(order: &Order<'_>, subject: &SubjectName, task: &Planned) -> v1::Grant {
    v1::Grant {
        job_id: order.job.to_string(),
        subject: subject.to_string(),
        base_model: order.model.digest.to_string(),
        traceparent: order.traceparent.to_owned(),
        work: Some(task.work.clone()),
        ..Default::default()
    }
}
