//! One subject on several ranks: what it learns is what it learns on one, but for the rounding of a sum.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crate::common::{MODEL, Until, bits, resolve, small, subject, subject_of, wire};
use likeness_proto::{Parameterization, v1};
use likeness_trainer::{
    Entry, Group, Learned, Lesson, Observer, Packing, Placement, Snapshot, Subject, TrainError, train, train_in_group,
};

const STEPS: u32 = 50;

/// Half-size photos, so that it takes seconds.
fn lesson(batch: u32) -> Lesson {
    let side = MODEL.native_size() / 2;
    let spec = resolve(v1::TrainSpec {
        max_steps: Some(STEPS),
        batch_size: Some(batch),
        resolution: Some(side as u32),
        evaluate_every: Some(STEPS),
        checkpoint_every: Some(1000),
        ..wire(Parameterization::Direction, 2, Some(0.05))
    });
    Lesson::new(&MODEL, &subject_of("subject-02", 4, false, side), &spec).unwrap()
}

fn on(ranks: usize, placement: Placement, lesson: &Lesson) -> Learned {
    let group = Group::new(vec![Arc::clone(&MODEL); ranks], 0, Duration::from_secs(60), Some(placement));
    let only = [Entry { lesson, from: None, observer: &mut () }];
    train_in_group(only, Packing::default(), group).swap_remove(0).unwrap()
}

fn rows(learned: &Learned) -> Vec<f32> {
    learned.rows.flatten_all().unwrap().to_vec1().unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn fifty_steps_have_the_losses_of_one_rank_on_two_three_and_four() {
    for (batch, ranks) in [(4, &[2, 3, 4][..]), (5, &[3])] {
        let lesson = lesson(batch);
        let alone = train(&lesson, None, &mut ()).unwrap();
        for &ranks in ranks {
            let together = on(ranks, Placement::Split, &lesson);
            assert_eq!((together.steps, together.evaluations.len()), (alone.steps, alone.evaluations.len()));
            let losses = largest_difference(&together.losses, &alone.losses);
            let drift = largest_difference(&rows(&together), &rows(&alone));
            println!("{batch} samples on {ranks} ranks, {STEPS} steps: losses {losses:.1e} apart, vectors {drift:.1e}");
            assert!(losses < 1e-4, "{losses} on {ranks} ranks");
        }
    }
}

#[test]
fn the_same_ranks_give_the_same_bits_and_whole_subjects_those_of_one_rank() {
    let lesson = lesson(2);
    let alone = bits(&train(&lesson, None, &mut ()).unwrap());
    let split = bits(&on(3, Placement::Split, &lesson));
    assert_eq!(bits(&on(3, Placement::Split, &lesson)), split);
    assert_eq!(bits(&on(2, Placement::Spread, &lesson)), alone);
}

/// Evaluated, and with a checkpoint, every two steps.
fn short(subject: &Subject, steps: u32) -> Lesson {
    let spec = v1::TrainSpec { max_steps: Some(steps), ..small(Parameterization::Direction, 1) };
    Lesson::new(&MODEL, subject, &resolve(spec)).unwrap()
}

#[test]
fn ranks_that_have_subjects_of_their_own_come_to_the_bits_of_one_rank_and_tell_all() {
    let mut poisoned = subject("subject-04", 1, false);
    poisoned.latents.upright = (poisoned.latents.upright * f64::NAN).unwrap();
    let lessons = [
        short(&subject("subject-01", 2, false), 5),
        short(&poisoned, 4),
        short(&subject("subject-02", 2, false), 8),
        short(&subject("subject-03", 2, false), 3),
    ];
    let mut observers: [Until; 4] = Default::default();
    let entries = lessons.iter().zip(&mut observers).map(|(lesson, observer)| Entry { lesson, from: None, observer });
    let group = Group::new(vec![Arc::clone(&MODEL); 2], 0, Duration::from_secs(60), Some(Placement::Spread));
    let packing = Packing { slots: NonZeroUsize::new(3).unwrap(), ..Packing::default() };
    let ends = train_in_group(entries.collect::<Vec<_>>(), packing, group);

    assert!(matches!(ends[1], Err(TrainError::Diverged { .. })), "the poisoned one fails, and alone");
    for place in [0, 2, 3] {
        let mut seen = Until::default();
        let alone = train(&lessons[place], None, &mut seen).unwrap();
        let told = &observers[place];
        assert_eq!(bits(ends[place].as_ref().unwrap()), bits(&alone), "subject {place}");
        assert_eq!((told.step, &told.evaluated), (seen.step, &seen.evaluated), "subject {place} was told of all");
        assert!(told.checkpoints.len() <= seen.checkpoints.len(), "subject {place}: {:?}", told.checkpoints);
    }
}

/// Keeps the vectors of the first preview point that it is told of from step `from` on, and stops there.
#[derive(Default)]
struct Previewed {
    from: u32,
    told: Option<(u32, Vec<f32>)>,
}

impl Observer for Previewed {
    fn proceed(&mut self) -> ControlFlow<()> {
        if self.told.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn preview(&mut self, snapshot: Snapshot) {
        let told = || (snapshot.step, snapshot.rows.flatten_all().unwrap().to_vec1().unwrap());
        self.told = self.told.take().or((snapshot.step >= self.from).then(told));
    }
}

#[test]
fn vectors_of_a_point_that_was_passed_in_a_stretch_are_those_of_that_point() {
    let long = v1::TrainSpec {
        max_steps: Some(400),
        previews: Some(16),
        evaluate_every: Some(1000),
        checkpoint_every: Some(1000),
        ..small(Parameterization::Direction, 1)
    };
    let lesson = Lesson::new(&MODEL, &subject("subject-01", 1, false), &resolve(long)).unwrap();
    let mut together = Previewed::default();
    let group = Group::new(vec![Arc::clone(&MODEL); 2], 0, Duration::from_secs(60), Some(Placement::Spread));
    let only = [Entry { lesson: &lesson, from: None, observer: &mut together }];
    assert!(matches!(train_in_group(only, Packing::default(), group)[0], Err(TrainError::Interrupted(_))));
    let (step, rows) = together.told.expect("a point was passed");

    let mut alone = Previewed { from: step, told: None };
    assert!(matches!(train(&lesson, None, &mut alone), Err(TrainError::Interrupted(_))));
    assert_eq!(alone.told, Some((step, rows)));
}

/// Stops as soon as a step was told.
#[derive(Default)]
struct Once(u32);

impl Observer for Once {
    fn proceed(&mut self) -> ControlFlow<()> {
        if self.0 > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn stepped(&mut self, step: u32, _loss: f32) {
        self.0 = step;
    }
}

#[test]
fn a_subject_of_one_rank_can_be_stopped() {
    let (lesson, mut observer) = (short(&subject("subject-01", 1, false), 10_000), Once::default());
    let group = Group::new(vec![Arc::clone(&MODEL); 2], 0, Duration::from_secs(2), Some(Placement::Spread));
    let only = [Entry { lesson: &lesson, from: None, observer: &mut observer }];
    match train_in_group(only, Packing::default(), group).swap_remove(0) {
        Err(TrainError::Interrupted(checkpoint)) => {
            assert!((1..1000).contains(&checkpoint.step), "{}", checkpoint.step)
        }
        other => panic!("{other:?}"),
    }
}
