//! Learning without a service: one subject, or many in a pack.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use candle_core::Tensor;
use likeness_proto::{Evaluation, StopReason};
use tracing::Span;

use crate::{
    Checkpoint, Group, Lesson, TrainError,
    group::Crew,
    pack::{End, Pack},
    pass::PASS_POSITIONS,
    run::Run,
};

/// Watches a run, and may stop it. Every method has a default that does nothing.
pub trait Observer {
    /// Asked before each step; a break ends the run with [`TrainError::Interrupted`].
    fn proceed(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// `step` steps are done; `loss` is the last one's.
    fn stepped(&mut self, _step: u32, _loss: f32) {}

    /// The fixed evaluation set was measured.
    fn evaluated(&mut self, _evaluation: Evaluation) {}

    /// A checkpoint is due.
    fn checkpoint(&mut self, _checkpoint: Checkpoint) {}

    /// A preview is due, of the rows as they were at its point.
    fn preview(&mut self, _snapshot: Snapshot) {}

    /// What spans about the run are children of.
    fn span(&self) -> Span {
        Span::none()
    }
}

/// Watches nothing.
impl Observer for () {}

impl<O: Observer + ?Sized> Observer for &mut O {
    fn proceed(&mut self) -> ControlFlow<()> {
        (**self).proceed()
    }

    fn stepped(&mut self, step: u32, loss: f32) {
        (**self).stepped(step, loss);
    }

    fn evaluated(&mut self, evaluation: Evaluation) {
        (**self).evaluated(evaluation);
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) {
        (**self).checkpoint(checkpoint);
    }

    fn preview(&mut self, snapshot: Snapshot) {
        (**self).preview(snapshot);
    }

    fn span(&self) -> Span {
        (**self).span()
    }
}

/// Unfinished rows.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// `(vectors, width)`, as the last step left them; on the CPU.
    pub rows: Tensor,
    /// Steps done.
    pub step: u32,
    /// The last evaluation loss until then.
    pub loss: f32,
}

/// What a run has learned.
#[derive(Clone, Debug)]
pub struct Learned {
    /// `(vectors, width)`: the best rows by the evaluation loss, not the last.
    pub rows: Tensor,
    /// Steps done.
    pub steps: u32,
    /// Why it stopped.
    pub reason: StopReason,
    /// Evaluation loss of the best rows.
    pub best_loss: f32,
    /// The step the best rows are of.
    pub best_step: u32,
    /// Every evaluation; the first is of the initial phrase.
    pub evaluations: Vec<Evaluation>,
    /// The training loss of every step.
    pub losses: Vec<f32>,
    /// Seconds from its start to its end, all attempts; those of a pack pass for all its subjects at once.
    pub seconds: f64,
}

/// Learns the lesson, from the start or from a checkpoint of the same run, until the evaluation loss no longer falls or the
/// steps are used up: a pack of one. A resumed run gives the same bits as an unbroken one.
///
/// # Errors
/// See [`TrainError`]. [`TrainError::Interrupted`] and [`TrainError::Diverged`] carry what was learned until then.
pub fn train(lesson: &Lesson, from: Option<Checkpoint>, observer: &mut dyn Observer) -> Result<Learned, TrainError> {
    let only = [Entry { lesson, from, observer }];
    train_packed(only, Packing::default()).swap_remove(0) // one entry, one end
}

/// A subject on its way into a pack.
pub struct Entry<'a> {
    /// What is learned.
    pub lesson: &'a Lesson,
    /// A checkpoint of the same run, to go on from.
    pub from: Option<Checkpoint>,
    /// Told of this subject alone.
    pub observer: &'a mut dyn Observer,
}

/// How subjects are packed. None of it shows in what they learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Subjects at once; where one ends, the next takes its place.
    pub slots: NonZeroUsize,
    /// Latent positions that go through the network at once, at most: memory grows with them. A single sample always goes.
    pub positions: usize,
}

impl Default for Packing {
    /// One subject, 4096 positions: 16 samples of 16×16 latents, 1 of 64×64.
    fn default() -> Self {
        Self { slots: NonZeroUsize::MIN, positions: PASS_POSITIONS }
    }
}

/// Learns many subjects of one base model, several at a time in shared steps. Each gives the bits it gives alone, and ends by
/// itself: how, stands at its place in the result.
pub fn train_packed<'a>(
    entries: impl IntoIterator<Item = Entry<'a>>,
    packing: Packing,
) -> Vec<Result<Learned, TrainError>> {
    train_all(entries, packing, Crew::Alone)
}

/// As [`train_packed`], with all ranks of `group` at it, which are waited for. The rounding of one sum apart, each subject learns what it
/// learns alone.
pub fn train_in_group<'a>(
    entries: impl IntoIterator<Item = Entry<'a>>,
    packing: Packing,
    group: Group,
) -> Vec<Result<Learned, TrainError>> {
    train_all(entries, packing, Crew::new(Some(group)))
}

fn train_all<'a>(
    entries: impl IntoIterator<Item = Entry<'a>>,
    packing: Packing,
    crew: Crew,
) -> Vec<Result<Learned, TrainError>> {
    let mut waiting = entries.into_iter().enumerate();
    let mut ends: Vec<(usize, End)> = Vec::new();
    let mut pack = Pack::new(packing.positions, crew);
    loop {
        while pack.len() < packing.slots.get()
            && let Some((place, Entry { lesson, from, observer })) = waiting.next()
        {
            match Run::begin(lesson.clone(), from) {
                Ok(run) => pack.join(place, run, Box::new(observer)),
                Err(error) => ends.push((place, Err(error))),
            }
        }
        if pack.len() == 0 {
            break;
        }
        ends.extend(pack.step());
    }
    ends.sort_by_key(|(place, _)| *place);
    ends.into_iter().map(|(_, end)| end).collect()
}
