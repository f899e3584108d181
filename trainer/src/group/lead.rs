//! Rank 0 of a group that stands.

use std::time::{Duration, Instant};

use likeness_proto::v1::{self, announcement::Task as Announced};
use likeness_telemetry::trace::Parent;

use super::{
    place::Placement,
    share::{Means, Task, measure},
    stretch::{self, Own},
    wire,
};
use crate::{
    Lesson, TrainError,
    collective::{Collective, CollectiveError},
    pass::Ask,
    run::Run,
    spans,
};

/// Exchanges that are timed, one by one; the first ones are not counted.
const REHEARSALS: usize = 12;
const COLD: usize = 4;

/// What rank 0 knows of the others.
pub(super) struct Lead {
    end: Box<dyn Collective>,
    /// The lessons that all ranks have, and their numbers.
    taught: Vec<(u64, Lesson)>,
    next: u64,
}

impl Lead {
    pub(super) fn new(end: Box<dyn Collective>) -> Self {
        Self { end, taught: Vec::new(), next: 0 }
    }

    /// Tells the others that they are still wanted.
    pub(super) fn idle(&mut self) -> Result<(), CollectiveError> {
        self.announce(Announced::Idle(v1::Nothing {}))
    }

    pub(super) fn size(&self) -> usize {
        self.end.size()
    }

    /// Seconds of an announcement and a sum, without anything to measure: the least of some.
    pub(super) fn rehearse(&mut self) -> Result<f64, TrainError> {
        let nothing = Task { gradients: false, placement: Placement::Split, positions: 1 };
        let mut seconds = Vec::new();
        for _ in 0..REHEARSALS {
            let began = Instant::now();
            self.measure(&[], nothing)?;
            seconds.push(began.elapsed().as_secs_f64());
        }
        Ok(seconds.into_iter().skip(COLD).fold(f64::INFINITY, f64::min))
    }

    /// Has every rank go on with its own of `runs` for so long.
    pub(super) fn stretch(
        &mut self,
        runs: &mut [&mut Run],
        limit: Duration,
        positions: usize,
    ) -> Result<(), TrainError> {
        let mut all = Vec::new();
        for run in runs.iter() {
            let (lesson, checkpoint) = (self.teach(run.lesson())?, run.checkpoint().to_bytes()?);
            all.push(v1::SubjectRun { lesson, checkpoint, traceparent: run.trace().map(Parent::to_string) });
        }
        let (rank, size) = (self.end.rank(), self.size());
        let own = runs.iter().zip(&all).skip(rank).step_by(size);
        let own: Vec<_> = own.map(|(run, told)| Own { lesson: run.lesson().clone(), stands: told.clone() }).collect();
        let span = spans::stretch(runs.iter().map(|run| run.trace()), size);
        let whole = Parent::of(&span);
        let (limit_ms, traceparent) = (limit.as_millis() as u32, whole.as_ref().map(Parent::to_string));
        self.announce(Announced::Stretch(v1::Stretch { limit_ms, runs: all, traceparent }))?;
        let share = spans::share(whole.as_ref(), rank, own.len());
        let told = self.end.gather(stretch::go_on(own, limit, positions, &share)?)?;
        let moved = stretch::in_order(told, runs.len())?;
        for (run, (there, passed)) in runs.iter_mut().zip(moved) {
            run.adopt(there, passed)?;
        }
        Ok(())
    }

    /// Has all ranks measure `asked`.
    pub(super) fn measure(&mut self, asked: &[Ask<'_>], task: Task) -> Result<Means, TrainError> {
        let numbers = asked.iter().map(|ask| self.teach(ask.lesson)).collect::<Result<Vec<_>, _>>()?;
        if task.gradients {
            self.taught.retain(|(number, _)| numbers.contains(number));
        }
        let subjects = numbers.iter().zip(asked).map(|(number, ask)| wire::ask(*number, ask)).collect();
        let spread = task.placement == Placement::Spread;
        let whole = Parent::current();
        let (gradients, traceparent) = (task.gradients, whole.as_ref().map(Parent::to_string));
        self.announce(Announced::Measurement(v1::Measurement { gradients, spread, subjects, traceparent }))?;
        Ok(measure(&mut *self.end, asked, task, whole.as_ref())?)
    }

    /// The number of a lesson, which all ranks have then.
    fn teach(&mut self, lesson: &Lesson) -> Result<u64, TrainError> {
        if let Some((number, _)) = self.taught.iter().find(|(_, taught)| taught.same(lesson)) {
            return Ok(*number);
        }
        let number = self.next;
        self.announce(Announced::Lesson(wire::lesson(number, lesson)?))?;
        self.next += 1;
        self.taught.push((number, lesson.clone()));
        Ok(number)
    }

    fn announce(&mut self, task: Announced) -> Result<(), CollectiveError> {
        self.end.broadcast(&mut wire::announce(task))
    }
}
