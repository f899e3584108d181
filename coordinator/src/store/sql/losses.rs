//! Loss curves, in chunks: never a row a step.

use likeness_proto::v1;
use likeness_proto::{ErrorCode, JobId, Refusal, SubjectName, TenantId, TrainReport};

use super::courses::Place;
use super::{Connection, Result, Writing};
use crate::store::refusals;

/// Steps of a chunk.
const CHUNK: usize = 256;
/// Bytes of a loss.
const FLOAT: usize = 4;

/// Adds what a worker reports. The curve then ends with the report's step: a successor that begins at an earlier
/// checkpoint takes back what its predecessor reported beyond it.
pub(super) async fn append(w: &mut Writing, place: &Place, report: &TrainReport) -> Result<()> {
    let end = report.step as usize;
    let start = end - report.losses.len();
    let mut at = start;
    while at < end {
        let (chunk, offset) = (at / CHUNK, at % CHUNK);
        let stop = end.min((chunk + 1) * CHUNK);
        let mut data = read_chunk(&mut w.tx, place, chunk).await?;
        if data.len() < offset * FLOAT {
            tracing::warn!(job = %place.job, subject = %place.subject, first = at, "losses dropped, those before are missing");
            return Ok(());
        }
        data.truncate(offset * FLOAT);
        data.extend(report.losses[at - start..stop - start].iter().flat_map(|loss| loss.to_le_bytes()));
        write_chunk(w, place, chunk, &data).await?;
        at = stop;
    }
    if start < end {
        cut(w, place, end).await?;
    }
    for evaluation in &report.evaluations {
        sqlx::query(
            "INSERT INTO evaluations (tenant, job, subject, step, loss) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (tenant, job, subject, step) DO UPDATE SET loss = excluded.loss",
        )
        .bind(place.tenant.as_str())
        .bind(place.job.to_string())
        .bind(place.subject.as_str())
        .bind(i64::from(evaluation.step))
        .bind(f64::from(evaluation.loss))
        .execute(&mut *w.tx)
        .await?;
    }
    Ok(())
}

async fn read_chunk(tx: &mut Connection, place: &Place, chunk: usize) -> Result<Vec<u8>> {
    let data: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT data FROM losses WHERE tenant = $1 AND job = $2 AND subject = $3 AND chunk = $4")
            .bind(place.tenant.as_str())
            .bind(place.job.to_string())
            .bind(place.subject.as_str())
            .bind(chunk as i64)
            .fetch_optional(tx)
            .await?;
    Ok(data.unwrap_or_default())
}

async fn write_chunk(w: &mut Writing, place: &Place, chunk: usize, data: &[u8]) -> Result<()> {
    sqlx::query(
        "INSERT INTO losses (tenant, job, subject, chunk, data) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tenant, job, subject, chunk) DO UPDATE SET data = excluded.data",
    )
    .bind(place.tenant.as_str())
    .bind(place.job.to_string())
    .bind(place.subject.as_str())
    .bind(chunk as i64)
    .bind(data)
    .execute(&mut *w.tx)
    .await?;
    Ok(())
}

/// Removes what lies beyond step `end`.
async fn cut(w: &mut Writing, place: &Place, end: usize) -> Result<()> {
    let statements = [
        ("DELETE FROM losses WHERE tenant = $1 AND job = $2 AND subject = $3 AND chunk >= $4", end.div_ceil(CHUNK)),
        ("DELETE FROM evaluations WHERE tenant = $1 AND job = $2 AND subject = $3 AND step > $4", end),
    ];
    for (statement, bound) in statements {
        sqlx::query(statement)
            .bind(place.tenant.as_str())
            .bind(place.job.to_string())
            .bind(place.subject.as_str())
            .bind(bound as i64)
            .execute(&mut *w.tx)
            .await?;
    }
    Ok(())
}

pub(super) async fn curve(
    tx: &mut Connection,
    tenant: &TenantId,
    job: JobId,
    subject: &SubjectName,
) -> Result<v1::LossCurve> {
    check_known(tx, tenant, job, subject).await?;
    let chunks: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT data FROM losses WHERE tenant = $1 AND job = $2 AND subject = $3 ORDER BY chunk")
            .bind(tenant.as_str())
            .bind(job.to_string())
            .bind(subject.as_str())
            .fetch_all(&mut *tx)
            .await?;
    let evaluations: Vec<(i64, f64)> = sqlx::query_as(
        "SELECT step, loss FROM evaluations WHERE tenant = $1 AND job = $2 AND subject = $3 ORDER BY step",
    )
    .bind(tenant.as_str())
    .bind(job.to_string())
    .bind(subject.as_str())
    .fetch_all(tx)
    .await?;
    let floats =
        |chunk: &Vec<u8>| chunk.as_chunks::<FLOAT>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let losses: Vec<Vec<f32>> = chunks.iter().map(floats).collect();
    let evaluation = |(step, loss)| v1::Evaluation { step: step as u32, loss: loss as f32 };
    let evaluations = evaluations.into_iter().map(evaluation).collect();
    Ok(v1::LossCurve { first_step: 1, losses: losses.concat(), evaluations })
}

async fn check_known(tx: &mut Connection, tenant: &TenantId, job: JobId, subject: &SubjectName) -> Result<()> {
    let (has_job, has_subject): (bool, bool) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM jobs WHERE tenant = $1 AND id = $2),
                EXISTS (SELECT 1 FROM job_subjects WHERE tenant = $1 AND job = $2 AND subject = $3)",
    )
    .bind(tenant.as_str())
    .bind(job.to_string())
    .bind(subject.as_str())
    .fetch_one(tx)
    .await?;
    match (has_job, has_subject) {
        (true, true) => Ok(()),
        (false, _) => Err(refusals::unknown_job(job).into()),
        (true, false) => {
            let message = format!("job {job} has no subject {subject}; `show` names those it has");
            Err(Refusal::new(ErrorCode::UnknownSubject, message).into())
        }
    }
}
