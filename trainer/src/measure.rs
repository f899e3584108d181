//! What packing brings, and what ranks do, measured.

use std::{num::NonZeroUsize, time::Instant};

use crate::{
    Entry, Group, Lesson, Packing, TrainError, group::Crew, lesson::Batch, pass::PASS_POSITIONS, train_packed,
};

/// Seconds that the same lessons took, one way and the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PackTimes {
    /// One after the other.
    pub alone: f64,
    /// Several at a time.
    pub packed: f64,
}

/// Learns `lessons` one after the other, and again as `packing` says. What they learn is thrown away.
///
/// # Errors
/// The first that a subject ended by.
pub fn time_packing(lessons: &[Lesson], packing: Packing) -> Result<PackTimes, TrainError> {
    let alone = seconds(lessons, Packing { slots: NonZeroUsize::MIN, ..packing })?;
    Ok(PackTimes { alone, packed: seconds(lessons, packing)? })
}

fn seconds(lessons: &[Lesson], packing: Packing) -> Result<f64, TrainError> {
    let mut nobody = vec![(); lessons.len()];
    let entries = lessons.iter().zip(&mut nobody).map(|(lesson, observer)| Entry { lesson, from: None, observer });
    let began = Instant::now();
    train_packed(entries, packing).into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(began.elapsed().as_secs_f64())
}

/// All ranks of a group, at one step after the other.
pub struct Ranks(Crew);

impl Ranks {
    /// Of `group`; `None`: this thread alone.
    #[must_use]
    pub fn new(group: Option<Group>) -> Self {
        Self(Crew::new(group))
    }

    /// As [`Lesson::gradient`], the samples split over the ranks. Waits for ranks that are not there yet.
    ///
    /// # Errors
    /// A tensor operation failed, or a rank was lost.
    pub fn gradient(&mut self, lesson: &Lesson, step: u32, rows: &[f32]) -> Result<(f32, Vec<f32>), TrainError> {
        while !self.0.ready(PASS_POSITIONS) {}
        let asked = [lesson.ask(Batch::Step(step), rows.to_vec())];
        let mut means = self.0.gradients(&asked, PASS_POSITIONS)?;
        Ok(means.swap_remove(0)?) // one subject, one answer
    }
}
