//! A rank that another leads.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use likeness_diffusion::BaseModel;
use likeness_proto::{Refusal, Secret, v1, v1::announcement::Task as Announced};
use likeness_telemetry::trace::Parent;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tonic::transport::Endpoint;
use tracing::{info, warn};

use super::{
    place::Placement,
    share::{Task, measure},
    stretch::{self, Own},
    wire,
};
use crate::{
    Lesson, TrainError,
    collective::{Collective, JoinError, Remote, Terms, on_device},
    spans,
};

/// Between two attempts to join.
const AGAIN: Duration = Duration::from_millis(500);

/// The ranks of one process in a group that another leads.
#[derive(Clone, Debug)]
pub struct Follower {
    /// Where the leader listens, and what connections there show; the latest counts whenever a rank joins.
    pub leader: watch::Receiver<Endpoint>,
    /// What is presented there; none: the connection has a certificate.
    pub token: Option<Secret>,
    /// Of each own rank, on its device; at least one.
    pub models: Vec<Arc<BaseModel>>,
    /// Which rank the first of them is.
    pub first: usize,
    /// Ranks of the whole group.
    pub size: usize,
    /// Who keeps a call waiting longer than this is lost.
    pub limit: Duration,
    /// Latent positions that go through the network at once, at most; see [`Packing::positions`](crate::Packing::positions).
    pub positions: usize,
}

/// Measures what the group's leader announces, in one group after the other, until this is dropped. A leader that does not answer is
/// waited for.
///
/// # Errors
/// When the leader refuses a rank.
pub async fn follow(follower: Follower) -> Result<Infallible, Refusal> {
    let mut ranks = JoinSet::new();
    for (place, model) in follower.models.iter().enumerate() {
        ranks.spawn(serve(follower.clone(), follower.first + place, Arc::clone(model)));
    }
    match ranks.join_next().await {
        Some(Ok(refused)) => refused,
        Some(Err(panicked)) => Err(Refusal::internal(format!("a rank has ended unexpectedly: {panicked}"))),
        None => Err(Refusal::invalid("a follower without ranks follows nobody")),
    }
}

async fn serve(follower: Follower, rank: usize, model: Arc<BaseModel>) -> Result<Infallible, Refusal> {
    let Follower { leader, token, size, limit, positions, .. } = follower;
    let terms = Terms::of(&model, size);
    let mut told = None;
    loop {
        let latest = leader.borrow().clone();
        match Remote::join(latest, token.as_ref(), &terms, rank, limit).await {
            Ok(end) => {
                info!(rank, "joined the group");
                told = None;
                let model = Arc::clone(&model);
                let ended = spawn_blocking(move || join(Box::new(end), &model, limit, positions)).await;
                let why = ended.map_or_else(|panic| panic.to_string(), |Err(error)| error.to_string());
                warn!(rank, why, "group has ended, joining again");
            }
            Err(JoinError::Refused(refusal)) => return Err(refusal),
            Err(JoinError::Unanswered(why)) if told.as_ref() != Some(&why) => {
                warn!(rank, why, "not in the group yet, trying again");
                told = Some(why);
            }
            Err(JoinError::Unanswered(_)) => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// As [`obey`], with sums as they are quickest on the model's device.
pub(super) fn join(
    end: Box<dyn Collective>,
    model: &Arc<BaseModel>,
    limit: Duration,
    positions: usize,
) -> Result<Infallible, TrainError> {
    obey(&mut *on_device(end, &model.device, limit)?, model, positions)
}

/// Measures what rank 0 announces until the group ends.
pub(super) fn obey(
    end: &mut dyn Collective,
    model: &Arc<BaseModel>,
    positions: usize,
) -> Result<Infallible, TrainError> {
    let mut lessons = HashMap::new();
    loop {
        let mut told = Vec::new();
        end.broadcast(&mut told)?;
        match wire::announced(&told)? {
            Announced::Idle(v1::Nothing {}) => {}
            Announced::Lesson(lesson) => {
                lessons.insert(lesson.number, wire::lesson_of(lesson, model)?);
            }
            Announced::Measurement(measurement) => take_part(end, &mut lessons, measurement, positions)?,
            Announced::Stretch(told) => {
                let own = own_runs(told.runs, &lessons, end.rank(), end.size())?;
                let limit = Duration::from_millis(told.limit_ms.into());
                let whole = told.traceparent.as_deref().and_then(Parent::read);
                let share = spans::share(whole.as_ref(), end.rank(), own.len());
                end.gather(stretch::go_on(own, limit, positions, &share)?)?;
            }
        }
    }
}

fn take_part(
    end: &mut dyn Collective,
    lessons: &mut HashMap<u64, Lesson>,
    measurement: v1::Measurement,
    positions: usize,
) -> Result<(), TrainError> {
    let v1::Measurement { gradients, spread, subjects, traceparent } = measurement;
    let placement = if spread { Placement::Spread } else { Placement::Split };
    if gradients {
        lessons.retain(|number, _| subjects.iter().any(|subject| subject.lesson == *number));
    }
    let ask = |subject: v1::SubjectAsk| find(lessons, subject.lesson).map(|lesson| wire::ask_of(subject, lesson));
    let asked = subjects.into_iter().map(ask).collect::<Result<Vec<_>, _>>()?;
    let whole = traceparent.as_deref().and_then(Parent::read);
    measure(end, &asked, Task { gradients, placement, positions }, whole.as_ref())?;
    Ok(())
}

/// Of all runs, those of `rank`.
fn own_runs(
    runs: Vec<v1::SubjectRun>,
    lessons: &HashMap<u64, Lesson>,
    rank: usize,
    size: usize,
) -> Result<Vec<Own>, TrainError> {
    let own = runs.into_iter().skip(rank).step_by(size);
    own.map(|run| Ok(Own { lesson: find(lessons, run.lesson)?.clone(), stands: run })).collect()
}

fn find(lessons: &HashMap<u64, Lesson>, number: u64) -> Result<&Lesson, TrainError> {
    lessons.get(&number).ok_or_else(|| wire::garbled(&format!("lesson {number} is unknown")))
}
