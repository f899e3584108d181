//! Rank 0 of a group that stands.

use likeness_proto::v1::{self, announcement::Task as Announced};

use super::{
    share::{Means, Placement, Task, measure},
    wire,
};
use crate::{
    Lesson, TrainError,
    collective::{Collective, CollectiveError},
    pass::Ask,
};

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

    /// Has all ranks measure `asked`.
    pub(super) fn measure(&mut self, asked: &[Ask<'_>], task: Task) -> Result<Means, TrainError> {
        let numbers = asked.iter().map(|ask| self.teach(ask.lesson)).collect::<Result<Vec<_>, _>>()?;
        if task.gradients {
            self.taught.retain(|(number, _)| numbers.contains(number));
        }
        let subjects = numbers.iter().zip(asked).map(|(number, ask)| wire::ask(*number, ask)).collect();
        let spread = task.placement == Placement::Spread;
        self.announce(Announced::Measurement(v1::Measurement { gradients: task.gradients, spread, subjects }))?;
        Ok(measure(&mut *self.end, asked, task)?)
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
