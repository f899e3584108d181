//! Many subjects in one step: each learns what it learns alone, bit for bit.

use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::common::{Bits, MODEL, Until, bits, folder, resolve, small, subject, subject_of};
use likeness_diffusion::{BaseModel, Device};
use likeness_proto::{Method, Parameterization, v1};
use likeness_trainer::{
    Checkpoint, Curve, Entry, Learned, Lesson, Packing, Subject, TrainError, time_packing, train, train_packed,
};

/// Three subjects that differ in everything a pack may not mix up, the first with the most steps.
static LESSONS: LazyLock<[Lesson; 3]> = LazyLock::new(|| {
    let (on_sphere, free) = (Parameterization::Direction, Parameterization::Adamw);
    [
        lesson(&subject("subject-01", 2, true), on_sphere, (1, 1, 5), 0.05),
        lesson(&subject("subject-02", 2, true), free, (3, 2, 2), 0.01),
        lesson(&subject("subject-03", 2, true), on_sphere, (2, 1, 3), 0.1),
    ]
});

/// What each of them learns alone.
static ALONE: LazyLock<Vec<Bits>> = LazyLock::new(|| LESSONS.iter().map(alone).collect());

fn lesson(
    subject: &Subject,
    parameterization: Parameterization,
    (vectors, batch, steps): (u32, u32, u32),
    rate: f64,
) -> Lesson {
    let mut spec = resolve(v1::TrainSpec {
        max_steps: Some(steps),
        batch_size: Some(batch),
        evaluate_every: Some(100),
        flip: Some(true),
        seed: Some(steps.into()),
        ..small(parameterization, vectors)
    });
    let Method::TextualInversion(inversion) = &mut spec.method;
    inversion.learning_rate = rate;
    Lesson::new(&MODEL, subject, &spec).unwrap()
}

fn alone(lesson: &Lesson) -> Bits {
    bits(&train(lesson, None, &mut ()).unwrap())
}

fn slots(slots: usize) -> Packing {
    Packing { slots: NonZeroUsize::new(slots).unwrap(), ..Packing::default() }
}

/// A pack of `lessons`, each from its checkpoint and until its step.
fn packed(
    members: Vec<(&Lesson, Option<Checkpoint>, Option<u32>)>,
    packing: Packing,
) -> Vec<Result<Learned, TrainError>> {
    let mut observers: Vec<_> = members.iter().map(|(.., at)| Until { at: *at, ..Until::default() }).collect();
    let members = members.into_iter().zip(&mut observers);
    train_packed(members.map(|((lesson, from, _), observer)| Entry { lesson, from, observer }), packing)
}

fn whole(lesson: &Lesson) -> (&Lesson, Option<Checkpoint>, Option<u32>) {
    (lesson, None, None)
}

#[track_caller]
fn assert_as_alone(ends: &[Result<Learned, TrainError>], lessons: &[usize], when: &str) {
    for &lesson in lessons {
        assert_eq!(bits(ends[lesson].as_ref().unwrap()), ALONE[lesson], "subject {lesson}, {when}");
    }
}

#[test]
fn packed_subjects_learn_the_bits_that_they_learn_alone() {
    // With two slots the third subject joins where the second has left. A sample has 256 positions.
    for packing in [slots(3), slots(2), Packing { positions: 3 * 256, ..slots(3) }] {
        assert_as_alone(&packed(LESSONS.iter().map(whole).collect(), packing), &[0, 1, 2], &format!("{packing:?}"));
    }
}

#[test]
fn the_number_of_threads_does_not_show_in_what_is_learned() {
    for threads in [1, 2, 3, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let ends = pool.install(|| packed(LESSONS.iter().map(whole).collect(), slots(3)));
        assert_as_alone(&ends, &[0, 1, 2], &format!("on {threads} threads"));
    }
}

#[test]
fn a_subject_stopped_in_one_pack_goes_on_in_another_to_the_bits_of_an_unbroken_run() {
    let mut ends = packed(vec![(&LESSONS[0], None, Some(2)), whole(&LESSONS[1])], slots(2));
    assert_as_alone(&ends, &[1], "while its neighbour is stopped");
    let Err(TrainError::Interrupted(checkpoint)) = ends.swap_remove(0) else { panic!("not stopped") };
    assert_eq!(checkpoint.step, 2);

    let reread = Checkpoint::from_bytes(&checkpoint.to_bytes().unwrap()).unwrap();
    let ends = packed(vec![(&LESSONS[0], Some(reread), None), whole(&LESSONS[2])], slots(2));
    assert_eq!(bits(ends[0].as_ref().unwrap()), ALONE[0]);
    assert_eq!(bits(ends[1].as_ref().unwrap()), ALONE[2]);
}

#[test]
fn poisoned_neighbours_are_quarantined_and_touch_nobody() {
    let poisoned = |latents: &dyn Fn(&mut Subject)| {
        let mut subject = subject("subject-04", 2, false);
        latents(&mut subject);
        lesson(&subject, Parameterization::Direction, (1, 2, 4), 0.05)
    };
    let scaled = |factor: f64| move |s: &mut Subject| s.latents.upright = (&s.latents.upright * factor).unwrap();
    let (nan, huge) = (poisoned(&scaled(f64::NAN)), poisoned(&scaled(1e30)));
    let misshapen = poisoned(&|s| s.latents.upright = s.latents.upright.narrow(1, 0, 3).unwrap());
    let absurd = lesson(&subject("subject-04", 2, false), Parameterization::Adamw, (1, 2, 4), 1e40);

    let mut members: Vec<_> = LESSONS.iter().map(whole).collect();
    members.extend([&nan, &huge, &absurd, &misshapen].map(whole));
    let ends = packed(members, slots(7));
    assert_as_alone(&ends, &[0, 1, 2], "beside poison");
    for (end, told) in ends[3..].iter().zip(["loss became NaN", "loss became", "vectors became", "tensor operation"]) {
        let error = end.as_ref().unwrap_err().to_string();
        assert!(error.contains(told), "{error:?} should say {told:?}");
    }
    assert!(ends[3..6].iter().all(|end| matches!(end, Err(TrainError::Diverged { .. }))));
}

#[test]
fn subjects_of_different_resolutions_share_a_pack() {
    let small = subject_of("subject-04", 2, true, MODEL.native_size() / 2);
    let small = lesson(&small, Parameterization::Direction, (2, 2, 3), 0.05);
    let ends = packed(vec![whole(&LESSONS[0]), whole(&LESSONS[1]), whole(&small)], slots(3));
    assert_as_alone(&ends, &[0, 1], "beside smaller latents");
    assert_eq!(bits(ends[2].as_ref().unwrap()), alone(&small));
}

#[test]
fn a_subject_that_cannot_begin_leaves_its_slot_to_the_next() {
    let nameless = Subject { init: "  ".to_owned(), ..subject("subject-04", 1, false) };
    let nameless = lesson(&nameless, Parameterization::Direction, (1, 1, 1), 0.05);
    let ends = packed(vec![whole(&nameless), whole(&LESSONS[1])], slots(1));
    assert!(matches!(ends[0], Err(TrainError::InitEmpty(_))));
    assert_eq!(bits(ends[1].as_ref().unwrap()), ALONE[1]);
}

#[test]
fn checkpointing_changes_no_bit_of_what_is_learned() {
    let mut model = BaseModel::load(&folder(), &Device::Cpu).unwrap();
    model.unet.set_checkpointing(true);
    let again = Lesson::new(&Arc::new(model), &subject("subject-02", 2, true), LESSONS[1].spec()).unwrap();
    assert_eq!(alone(&again), ALONE[1]);
}

#[test]
fn what_steps_take_is_measured_as_far_as_the_memory_goes() {
    let curve = Curve::measure(&MODEL, NonZeroUsize::new(3).unwrap(), Duration::from_secs(600)).unwrap();
    assert_eq!(curve.points().iter().map(|point| point.samples).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn packing_can_be_timed() {
    let lessons: Vec<Lesson> = LESSONS.iter().skip(1).cloned().collect();
    let times = time_packing(&lessons, slots(2)).unwrap();
    assert!(times.alone > 0.0 && times.packed > 0.0, "{times:?}");
}
