//! Subjects that are one rank's: it goes on with them for a while as if it were alone.

use std::time::{Duration, Instant};

use likeness_proto::v1;
use likeness_telemetry::trace::Parent;
use prost::Message;
use tracing::Span;

use super::wire::garbled;
use crate::{Checkpoint, Lesson, TrainError, pass, run::Run, spans};

/// A subject of this rank.
pub(super) struct Own {
    pub(super) lesson: Lesson,
    /// Where it stands.
    pub(super) stands: v1::SubjectRun,
}

impl Own {
    fn resume(self) -> Result<Run, TrainError> {
        let v1::SubjectRun { lesson: _, checkpoint, traceparent } = self.stands;
        let run = Run::quietly(self.lesson, Some(Checkpoint::from_bytes(&checkpoint)?))?;
        Ok(run.traced(traceparent.as_deref().and_then(Parent::read)))
    }
}

/// Goes on with `own` subjects and gives back where they stand, as it travels. No step is begun after `limit`. A subject that fails stays
/// where it was: a common step finds out why. `share` tells of it, if anything does.
pub(super) fn go_on(own: Vec<Own>, limit: Duration, positions: usize, share: &Span) -> Result<Vec<u8>, TrainError> {
    let until = Instant::now() + limit;
    let mut runs = own.into_iter().map(Own::resume).collect::<Result<Vec<_>, TrainError>>()?;
    let mut going: Vec<&mut Run> = runs.iter_mut().collect();
    loop {
        evaluate(&mut going, positions);
        going.retain(|run| run.finished().is_none());
        if going.is_empty() || Instant::now() >= until {
            break;
        }
        learn(&mut going, positions, share);
    }
    let checkpoints = runs.iter().map(|run| run.checkpoint().to_bytes()).collect::<Result<_, _>>()?;
    let passed =
        |run: &mut Run| run.take_passed().map_or_else(v1::Passed::default, |(step, rows)| v1::Passed { step, rows });
    let passed = runs.iter_mut().map(passed).collect();
    Ok(v1::Stretched { checkpoints, passed }.encode_to_vec())
}

/// Where a subject stands after a stretch, and the last preview point that it passed in it, with the rows there.
pub(super) type Moved = (Checkpoint, Option<(u32, Vec<f32>)>);

/// Where the subjects of each rank stand after a stretch, put into the order of all.
pub(super) fn in_order(told: Vec<Vec<u8>>, subjects: usize) -> Result<Vec<Moved>, TrainError> {
    let decode =
        |bytes: Vec<u8>| v1::Stretched::decode(&bytes[..]).map(|told| told.checkpoints.into_iter().zip(told.passed));
    let mut ranks = told.into_iter().map(decode).collect::<Result<Vec<_>, _>>().map_err(|error| garbled(&error))?;
    let size = ranks.len();
    let next = |place: usize| {
        let next = ranks[place % size].next();
        let (state, v1::Passed { step, rows }) =
            next.ok_or_else(|| garbled(&"a subject is missing after a stretch"))?;
        Ok((Checkpoint::from_bytes(&state)?, (step > 0).then_some((step, rows))))
    };
    (0..subjects).map(next).collect()
}

fn evaluate(going: &mut Vec<&mut Run>, positions: usize) {
    let due = going.iter().filter(|run| run.evaluation_due());
    let (asked, _spans): (Vec<_>, Vec<_>) =
        due.map(|run| (run.evaluation(), spans::evaluation(run.trace(), run.step()))).unzip();
    let mut losses = pass::losses(&asked, positions).into_iter();
    going.retain_mut(|run| {
        let measured = run.evaluation_due().then(|| losses.next()).flatten();
        measured.is_none_or(|loss| loss.map_err(TrainError::from).and_then(|loss| run.judge(loss)).is_ok())
    });
}

fn learn(going: &mut Vec<&mut Run>, positions: usize, share: &Span) {
    let asked: Vec<_> = going.iter().map(|run| run.training()).collect();
    let samples = asked.iter().map(|ask| ask.samples.len()).sum();
    let places: Vec<_> = going.iter().map(|run| (run.trace().cloned(), run.step())).collect();
    let _spans = spans::step(share, &places, samples);
    let mut measured = pass::gradients(&asked, positions).into_iter();
    going.retain_mut(|run| {
        let measured = measured.next().map(|measured| measured.map_err(TrainError::from));
        measured.is_some_and(|measured| measured.and_then(|(loss, gradient)| run.apply(loss, &gradient)).is_ok())
    });
}
