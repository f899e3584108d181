//! What workers say about their tasks. A report counts only under the current fence; what it carries is recorded in the
//! transaction that accepts it.

use likeness_proto::v1;
use likeness_proto::{
    Completion, Failure, Incarnation, LeaseId, Prefix, Progress, Refusal, Release, Renewal, Renewals, TaskId,
    TaskResult, TrainReport, Verdict, output_prefix,
};
use prost::Message;

use super::courses::{self, Place};
use super::rows::parsed;
use super::{Connection, Result, Writing, dialect, fleet, losses, previews, results, shares};
use crate::lifecycle::{Course, Effect, Event, Refused, Report, TaskState};
use crate::metrics::{Attempt, Outcome};
use crate::store::{Reach, refusals};

pub(super) async fn outputs(tx: &mut Connection, lease: LeaseId) -> Result<Prefix> {
    let place = courses::locate(&mut *tx, lease.task).await?;
    let kind = fleet::kind_of(&mut *tx, lease.task).await?;
    match (place, kind) {
        (Some(place), Some(kind)) => Ok(output_prefix(&place.tenant, &place.subject, kind, lease)),
        (None, _) | (_, None) => Err(refusals::stale(lease).into()),
    }
}

pub(super) async fn renew(w: &mut Writing, renewals: &Renewals) -> Result<Vec<Verdict>> {
    let mut places = Vec::with_capacity(renewals.renewals.len());
    for renewal in &renewals.renewals {
        places.push(courses::locate(&mut w.tx, renewal.lease.task).await?);
    }
    let known: Vec<_> = places.iter().flatten().cloned().collect();
    // A new preview drops an earlier one that is ready.
    let previews =
        renewals.renewals.iter().any(|renewal| report(renewal).is_some_and(|report| report.preview.is_some()));
    let reach = if previews { Reach::Siblings } else { Reach::Own };
    dialect::lock_courses(&mut w.tx, &known, reach).await?;
    let mut verdicts = Vec::with_capacity(places.len());
    for (renewal, place) in renewals.renewals.iter().zip(places) {
        verdicts.push(match place {
            Some(place) => renew_one(w, renewals.incarnation, renewal, &place).await?,
            None => Verdict::Lost,
        });
    }
    Ok(verdicts)
}

async fn renew_one(w: &mut Writing, holder: Incarnation, renewal: &Renewal, place: &Place) -> Result<Verdict> {
    let lease = renewal.lease;
    let mut course = courses::load(w, place).await?;
    let mut progress = courses::progress(&mut w.tx, place).await?;
    let before = progress.clone();
    let known_step = progress.training.as_ref().map_or(0, |training| training.checkpoint_step);
    let event = Event::Renewed {
        by: Report { holder, fence: lease.fence },
        until: w.now + w.policy.lease,
        further: report(renewal)
            .and_then(|report| report.checkpoint.as_ref())
            .is_some_and(|checkpoint| checkpoint.step > known_step),
    };
    let mut effects = match course.apply(w.now, lease.task, event) {
        Ok(effects) => effects,
        Err(Refused::Cancelled) => return Ok(Verdict::Cancelled),
        Err(Refused::Stale | Refused::Untimely) => return Ok(Verdict::Lost),
    };
    let mut drawn = false;
    match &renewal.progress {
        None => {}
        Some(Progress::Train(report)) => {
            trained(w, place, lease.task, report, &mut progress).await?;
            if let Some(snapshot) = &report.preview {
                effects.extend(previews::queue(w, place, &mut course, lease.task, snapshot, &mut progress).await?);
            }
        }
        Some(Progress::Render { avatars_done }) => drawn = draw(w, place, lease.task, *avatars_done).await?,
    }
    if progress == before && !drawn {
        courses::save(w, place, &course, &effects).await?;
    } else {
        courses::settle(w, place, &course, &effects, &mut progress).await?;
    }
    Ok(Verdict::Continue)
}

fn report(renewal: &Renewal) -> Option<&TrainReport> {
    match &renewal.progress {
        Some(Progress::Train(report)) => Some(report),
        Some(Progress::Render { .. }) | None => None,
    }
}

/// Records what a training reports: curve, numbers, checkpoint.
pub(super) async fn trained(
    w: &mut Writing,
    place: &Place,
    task: TaskId,
    report: &TrainReport,
    progress: &mut v1::SubjectProgress,
) -> Result<()> {
    losses::append(w, place, report).await?;
    let training = progress.training.get_or_insert_default();
    training.step = report.step;
    training.steps_per_second = report.steps_per_second;
    if !report.losses.is_empty() {
        training.loss = report.losses.iter().sum::<f32>() / report.losses.len() as f32;
    }
    if let Some(last) = report.evaluations.last() {
        training.evaluation_loss = last.loss;
    }
    let Some(checkpoint) = &report.checkpoint else { return Ok(()) };
    training.checkpoint_step = checkpoint.step;
    sqlx::query("UPDATE tasks SET checkpoint = $1 WHERE tenant = $2 AND id = $3")
        .bind(v1::Checkpoint::from(checkpoint.clone()).encode_to_vec())
        .bind(place.tenant.as_str())
        .bind(task.to_string())
        .execute(&mut *w.tx)
        .await?;
    Ok(())
}

/// Records how many avatars of a task are drawn; answers whether that is news.
async fn draw(w: &mut Writing, place: &Place, task: TaskId, avatars_done: u32) -> Result<bool> {
    let changed = sqlx::query(
        "UPDATE tasks SET drawn = CASE WHEN $1 < shots THEN $1 ELSE shots END
         WHERE tenant = $2 AND id = $3 AND drawn != $1",
    )
    .bind(i64::from(avatars_done))
    .bind(place.tenant.as_str())
    .bind(task.to_string())
    .execute(&mut *w.tx)
    .await?;
    Ok(changed.rows_affected() > 0)
}

pub(super) async fn complete(w: &mut Writing, completion: &Completion) -> Result<()> {
    let Completion { incarnation, lease, result, warnings } = completion;
    let reach = match result {
        // A preview that is ready is dropped when the training is done.
        TaskResult::Train { .. } => Reach::Siblings,
        TaskResult::Render { .. } | TaskResult::Assemble { .. } | TaskResult::Preview { .. } => Reach::Own,
    };
    let (place, mut course) = find(w, *lease, reach).await?;
    let event = Event::Finished(Report { holder: *incarnation, fence: lease.fence });
    let effects = apply(w, &mut course, *lease, event)?;
    if !effects.contains(&Effect::Publish(lease.task)) {
        return Ok(()); // repeated
    }
    count(w, &course, lease.task, Outcome::Completed);
    let mut progress = courses::progress(&mut w.tx, &place).await?;
    let subject = place.subject.to_string();
    progress
        .warnings
        .extend(warnings.iter().cloned().map(|warning| v1::Warning { subject: subject.clone(), ..warning }));
    results::publish(w, &place, lease.task, result, &mut progress).await?;
    courses::settle(w, &place, &course, &effects, &mut progress).await
}

pub(super) async fn fail(w: &mut Writing, failure: &Failure) -> Result<()> {
    let Failure { incarnation, lease, error, retry } = failure;
    let (place, mut course) = find(w, *lease, Reach::Siblings).await?;
    let by = Report { holder: *incarnation, fence: lease.fence };
    let effects = apply(w, &mut course, *lease, Event::Failed { by, retry: *retry })?;
    if effects.is_empty() {
        return Ok(()); // repeated
    }
    count(w, &course, lease.task, Outcome::Failed);
    failed(w, &place, &course, lease.task, error, &effects).await
}

pub(super) async fn release(w: &mut Writing, release: &Release) -> Result<()> {
    let (place, mut course) = find(w, release.lease, Reach::Own).await?;
    let by = Report { holder: release.incarnation, fence: release.lease.fence };
    let effects = apply(w, &mut course, release.lease, Event::Released(by))?;
    count(w, &course, release.lease.task, Outcome::Released);
    let mut progress = courses::progress(&mut w.tx, &place).await?;
    courses::settle(w, &place, &course, &effects, &mut progress).await
}

/// Counts the end of an attempt, once it is committed.
fn count(w: &mut Writing, course: &Course, task: TaskId, outcome: Outcome) {
    if let Some(task) = course.tasks.iter().find(|candidate| candidate.id == task) {
        w.tally.attempts.push(Attempt { kind: task.kind, outcome, dead: task.state == TaskState::Dead });
    }
}

async fn find(w: &mut Writing, lease: LeaseId, reach: Reach) -> Result<(Place, Course)> {
    let place = courses::locate(&mut w.tx, lease.task).await?.ok_or_else(|| refusals::stale(lease))?;
    dialect::lock_courses(&mut w.tx, std::slice::from_ref(&place), reach).await?;
    let course = courses::load(w, &place).await?;
    Ok((place, course))
}

fn apply(w: &Writing, course: &mut Course, lease: LeaseId, event: Event) -> Result<Vec<Effect>> {
    let effects = course.apply(w.now, lease.task, event);
    Ok(effects.map_err(|refused| refusals::refused(refused, lease))?)
}

/// Records a try that failed, and with it the subject if that was the last one.
async fn failed(
    w: &mut Writing,
    place: &Place,
    course: &Course,
    task: TaskId,
    error: &Refusal,
    effects: &[Effect],
) -> Result<()> {
    courses::save_error(w, place, task, error).await?;
    let mut progress = courses::progress(&mut w.tx, place).await?;
    progress.error = courses::end_error(course, task, error).or(progress.error);
    courses::settle(w, place, course, effects, &mut progress).await
}

/// Takes back the leases of a process that is gone.
pub(super) async fn abandon(w: &mut Writing, gone: Incarnation) -> Result<()> {
    let held: Vec<String> = sqlx::query_scalar("SELECT id FROM tasks WHERE state = 2 AND holder = $1")
        .bind(gone.to_string())
        .fetch_all(&mut *w.tx)
        .await?;
    take_back(w, held, Event::Abandoned(gone), Outcome::Abandoned).await
}

pub(super) async fn expire(w: &mut Writing) -> Result<()> {
    let lapsed: Vec<String> = sqlx::query_scalar("SELECT id FROM tasks WHERE state = 2 AND lease_ends <= $1")
        .bind(w.now.millis())
        .fetch_all(&mut *w.tx)
        .await?;
    take_back(w, lapsed, Event::Lapsed, Outcome::Expired).await?;
    let late: Vec<(String, String)> =
        sqlx::query_as("DELETE FROM uploads WHERE deadline <= $1 RETURNING tenant, subject")
            .bind(w.now.millis())
            .fetch_all(&mut *w.tx)
            .await?;
    for (tenant, subject) in late {
        let (tenant, subject) = (parsed("uploads.tenant", &tenant)?, parsed("uploads.subject", &subject)?);
        super::erasures::owe(w, &tenant, &subject, w.now, None).await?;
    }
    shares::tidy(w).await
}

async fn take_back(w: &mut Writing, tasks: Vec<String>, event: Event, outcome: Outcome) -> Result<()> {
    let mut lost = Vec::with_capacity(tasks.len());
    for id in tasks {
        let task = parsed("tasks.id", &id)?;
        lost.extend(courses::locate(&mut w.tx, task).await?.map(|place| (task, place)));
    }
    let places: Vec<_> = lost.iter().map(|(_, place)| place.clone()).collect();
    dialect::lock_courses(&mut w.tx, &places, Reach::Siblings).await?;
    for (task, place) in lost {
        let mut course = courses::load(w, &place).await?;
        // An earlier task of the list may have ended this one's subject, and somebody else may have been first.
        let Ok(effects) = course.apply(w.now, task, event) else { continue };
        tracing::warn!(job = %place.job, %task, "lease lost, task taken back");
        count(w, &course, task, outcome);
        failed(w, &place, &course, task, &courses::lost(), &effects).await?;
    }
    Ok(())
}
