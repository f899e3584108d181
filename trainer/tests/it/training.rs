//! The loop on the bundled model.

use crate::common::{MODEL, Until, bits, resolve, small, subject, wire};
use candle_core::Tensor;
use likeness_proto::{Parameterization, StopReason, v1};
use likeness_trainer::{Checkpoint, Learned, Lesson, TrainError, Verdict, train};

/// Runs until `at`, sends the checkpoint through its file, and goes on.
fn broken_at(lesson: &Lesson, at: u32) -> Learned {
    let error = train(lesson, None, &mut Until { at: Some(at), ..Until::default() }).unwrap_err();
    assert_eq!(error.verdict(), Verdict::Drop);
    let TrainError::Interrupted(checkpoint) = error else { panic!("{error}") };
    assert_eq!(checkpoint.step, at);
    let reread = Checkpoint::from_bytes(&checkpoint.to_bytes().unwrap()).unwrap();
    train(lesson, Some(reread), &mut ()).unwrap()
}

#[test]
fn a_resumed_run_gives_the_bits_of_an_unbroken_one() {
    for (parameterization, vectors) in [(Parameterization::Direction, 2), (Parameterization::Adamw, 1)] {
        let subject = subject("subject-02", 3, true);
        let spec =
            resolve(v1::TrainSpec { flip: Some(true), evaluate_every: Some(3), ..small(parameterization, vectors) });
        let lesson = Lesson::new(&MODEL, &subject, &spec).unwrap();
        let unbroken = train(&lesson, None, &mut ()).unwrap();
        for at in [1, 3, 5] {
            assert_eq!(bits(&broken_at(&lesson, at)), bits(&unbroken), "{parameterization} broken at step {at}");
        }
    }
}

#[test]
fn a_few_steps_lower_the_evaluation_loss() {
    let subject = subject("subject-01", 8, false);
    let spec = resolve(v1::TrainSpec {
        max_steps: Some(40),
        batch_size: Some(4),
        evaluate_every: Some(20),
        ..wire(Parameterization::Direction, 1, Some(0.1))
    });
    let lesson = Lesson::new(&MODEL, &subject, &spec).unwrap();
    let mut seen = Until::default();
    let learned = train(&lesson, None, &mut seen).unwrap();
    let first = learned.evaluations[0].loss;
    assert!(learned.best_loss < 0.9 * first, "{first} → {}", learned.best_loss); // 0.196 → 0.152 when it was written
    assert_eq!((learned.steps, learned.reason, learned.losses.len()), (40, StopReason::MaxSteps, 40));
    assert_eq!(seen.evaluated, learned.evaluations);
    let kept = learned.rows.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(lesson.evaluate(&kept).unwrap(), learned.best_loss, "the rows kept are those of the best evaluation");
}

#[test]
fn evaluations_and_checkpoints_come_when_they_are_due() {
    let subject = subject("subject-01", 1, false);
    let spec = resolve(v1::TrainSpec { max_steps: Some(5), ..small(Parameterization::Direction, 1) });
    let mut seen = Until::default();
    train(&Lesson::new(&MODEL, &subject, &spec).unwrap(), None, &mut seen).unwrap();
    assert_eq!(seen.evaluated.iter().map(|e| e.step).collect::<Vec<_>>(), [0, 2, 4, 5]);
    assert_eq!(seen.checkpoints, [2, 4]);
}

#[test]
fn photos_that_are_not_numbers_are_quarantined_before_the_first_step() {
    let mut subject = subject("subject-01", 2, false);
    subject.latents.upright = (subject.latents.upright * f64::NAN).unwrap();
    let spec = resolve(small(Parameterization::Direction, 1));
    let error = train(&Lesson::new(&MODEL, &subject, &spec).unwrap(), None, &mut ()).unwrap_err();
    assert_eq!(error.verdict(), Verdict::Fail);
    assert!(error.to_string().contains("loss became NaN at step 0"), "{error}");
}

#[test]
fn an_absurd_learning_rate_keeps_the_last_good_vectors() {
    let subject = subject("subject-01", 2, false);
    let spec = small(Parameterization::Adamw, 1);
    let mut spec = resolve(spec);
    let likeness_proto::Method::TextualInversion(inversion) = &mut spec.method;
    inversion.learning_rate = 1e40;
    let lesson = Lesson::new(&MODEL, &subject, &spec).unwrap();
    let error = train(&lesson, None, &mut ()).unwrap_err();
    assert!(error.to_string().contains("vectors became"), "{error}");
    let TrainError::Diverged { kept, .. } = error else { panic!("{error}") };
    assert_eq!(kept.best, lesson.start().unwrap().rows());
    assert!(kept.best_loss.is_finite());
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let subject = subject("subject-01", 1, false);
    let spec = resolve(small(Parameterization::Direction, 1));
    let lesson = Lesson::new(&MODEL, &subject, &spec).unwrap();
    let error = train(&lesson, None, &mut Until { at: Some(0), ..Until::default() }).unwrap_err();
    let TrainError::Interrupted(checkpoint) = error else { panic!("{error}") };
    for other in [
        resolve(v1::TrainSpec { seed: Some(1), ..small(Parameterization::Direction, 1) }),
        resolve(small(Parameterization::Direction, 2)),
    ] {
        let other = Lesson::new(&MODEL, &subject, &other).unwrap();
        let error = train(&other, Some((*checkpoint).clone()), &mut ()).unwrap_err();
        assert!(error.to_string().contains("another run"), "{error}");
    }
}

#[test]
fn an_empty_initial_phrase_is_an_error() {
    let subject = likeness_trainer::Subject { init: "  ".to_owned(), ..subject("subject-01", 1, false) };
    let spec = resolve(small(Parameterization::Direction, 1));
    let error = train(&Lesson::new(&MODEL, &subject, &spec).unwrap(), None, &mut ()).unwrap_err();
    assert!(matches!(error, TrainError::InitEmpty(_)), "{error}");
}

#[test]
fn vectors_start_at_the_mean_of_the_phrase_and_a_little_apart() {
    let subject = likeness_trainer::Subject { init: "person smiling".to_owned(), ..subject("subject-01", 1, false) };
    let spec = resolve(small(Parameterization::Direction, 3));
    let lesson = Lesson::new(&MODEL, &subject, &spec).unwrap();
    let start = lesson.start().unwrap().rows();
    let ids = MODEL.tokenizer.phrase("person smiling");
    let mean = MODEL.text.rows(&ids).unwrap().mean(0).unwrap();
    let rows = Tensor::from_vec(start, (3, MODEL.text.width()), mean.device()).unwrap();
    let cosine = |k: usize| {
        let row = rows.get(k).unwrap();
        let dot = (&row * &mean).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        let length = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        (dot / length(&row) / length(&mean), length(&row))
    };
    assert!(cosine(0).0 > 0.999_999);
    for k in 0..3 {
        assert!(cosine(k).0 > 0.999, "vector {k}");
        assert!((cosine(k).1 / MODEL.text.vocabulary_norm() - 1.0).abs() < 1e-4);
    }
    assert!(cosine(1).0 < 0.999_99 && cosine(2).0 != cosine(1).0);
}

#[test]
fn every_vector_stands_in_every_prompt_or_it_is_an_error() {
    let mut subject = subject("subject-01", 1, false);
    subject.latents.captions[0] = Some(format!("{} {{subject}}", "very ".repeat(74)));
    let spec = resolve(small(Parameterization::Direction, 4));
    let error = Lesson::new(&MODEL, &subject, &spec).unwrap_err();
    assert!(matches!(error, TrainError::VectorMissing { .. } | TrainError::Sentence { .. }), "{error}");

    subject.latents.captions[0] = Some("a photo of {subject} in the snow".to_owned());
    let lesson = Lesson::new(&MODEL, &subject, &spec).unwrap();
    assert_eq!(lesson.cut().count(), 0);
}

#[test]
fn a_caption_takes_the_place_of_the_templates() {
    let mut captioned = subject("subject-01", 1, false);
    captioned.latents.captions[0] = Some("a sepia photo of {subject}".to_owned());
    let plain = subject("subject-01", 1, false);
    let spec = resolve(small(Parameterization::Direction, 1));
    let (captioned, plain) =
        (Lesson::new(&MODEL, &captioned, &spec).unwrap(), Lesson::new(&MODEL, &plain, &spec).unwrap());
    let rows = plain.start().unwrap().rows();
    assert_ne!(captioned.evaluate(&rows).unwrap(), plain.evaluate(&rows).unwrap());
    assert_ne!(captioned.gradient(0, &rows).unwrap().0, plain.gradient(0, &rows).unwrap().0);
    assert_ne!(captioned.digest(), plain.digest());
}
