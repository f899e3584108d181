//! What packing brings, measured.

use std::{num::NonZeroUsize, time::Instant};

use crate::{Entry, Lesson, Packing, TrainError, train_packed};

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
