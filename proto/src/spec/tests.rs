use proptest::prelude::*;

use super::*;
use crate::{ErrorCode, Parameterization, Scheduler, Templates, v1};

const MODEL: ModelFacts = ModelFacts { native_size: 64, factor: 8 };

fn wire_train() -> impl Strategy<Value = v1::TrainSpec> {
    let inversion = (
        proptest::option::of(0u32..40),
        proptest::option::of(0i32..4),
        proptest::option::of(prop_oneof![Just(f64::NAN), Just(f64::INFINITY), -1.0..11.0f64]),
    );
    let inversion = inversion.prop_map(|(vectors, parameterization, learning_rate)| {
        v1::train_spec::Method::TextualInversion(v1::TextualInversion { vectors, parameterization, learning_rate })
    });
    let steps = || proptest::option::of(prop_oneof![Just(0), 1u32..100_001]);
    let plain = (steps(), proptest::option::of(0u32..70), any::<Option<u64>>(), proptest::option::of(0u32..200));
    let rest = (any::<Option<bool>>(), proptest::option::of(0i32..4), steps(), steps(), proptest::option::of(0u32..18));
    (plain, rest, proptest::option::of(inversion)).prop_map(|(plain, rest, method)| v1::TrainSpec {
        max_steps: plain.0,
        batch_size: plain.1,
        seed: plain.2,
        resolution: plain.3.map(|side| side * 4),
        flip: rest.0,
        templates: rest.1,
        evaluate_every: rest.2,
        checkpoint_every: rest.3,
        previews: rest.4,
        method,
    })
}

fn wire_render() -> impl Strategy<Value = v1::RenderSpec> {
    let prompt = ("[a-z ]{0,8}(\\{subject\\})?", proptest::collection::vec(any::<u64>(), 0..3));
    let prompts = proptest::collection::vec(prompt.prop_map(|(text, seeds)| v1::Prompt { text, seeds }), 0..4);
    let guidance = proptest::option::of(prop_oneof![Just(f64::NAN), Just(f64::NEG_INFINITY), -1.0..60.0f64]);
    let size = || proptest::option::of((0u32..40).prop_map(|side| side * 4));
    let rest = (proptest::option::of(0u32..1002), guidance, proptest::option::of(0i32..5), size(), size());
    (prompts, "[a-z ]{0,8}", rest).prop_map(|(prompts, negative_prompt, rest)| v1::RenderSpec {
        prompts,
        negative_prompt,
        steps: rest.0,
        guidance: rest.1,
        scheduler: rest.2,
        width: rest.3,
        height: rest.4,
    })
}

fn inversion(change: impl FnOnce(&mut v1::TextualInversion)) -> v1::TrainSpec {
    let mut inversion = v1::TextualInversion::default();
    change(&mut inversion);
    v1::TrainSpec { method: Some(v1::train_spec::Method::TextualInversion(inversion)), ..Default::default() }
}

fn render(text: &str) -> v1::RenderSpec {
    v1::RenderSpec { prompts: vec![v1::Prompt { text: text.into(), seeds: vec![] }], ..Default::default() }
}

proptest! {
    #[test]
    fn resolving_a_resolved_train_spec_changes_nothing(wire in wire_train()) {
        if let Ok(once) = TrainSpec::resolve(wire, &MODEL) {
            let stored = v1::TrainSpec::from(once.clone());
            prop_assert_eq!(&TrainSpec::resolve(stored, &MODEL).unwrap(), &once);
            prop_assert_eq!(&TrainSpec::try_from(stored).unwrap(), &once);
        }
    }

    #[test]
    fn resolving_a_resolved_render_spec_changes_nothing(wire in wire_render()) {
        if let Ok(once) = RenderSpec::resolve(wire, &MODEL) {
            let stored = v1::RenderSpec::from(once.clone());
            prop_assert_eq!(&RenderSpec::resolve(stored.clone(), &MODEL).unwrap(), &once);
            prop_assert_eq!(&RenderSpec::try_from(stored).unwrap(), &once);
        }
    }
}

#[test]
fn an_empty_train_spec_takes_the_defaults() {
    let spec = TrainSpec::resolve(v1::TrainSpec::default(), &MODEL).unwrap();
    let want = TrainSpec {
        max_steps: TRAIN_DEFAULTS.max_steps,
        batch_size: TRAIN_DEFAULTS.batch_size,
        seed: 0,
        resolution: 64,
        flip: false,
        templates: Templates::Portrait,
        evaluate_every: TRAIN_DEFAULTS.evaluate_every,
        checkpoint_every: TRAIN_DEFAULTS.checkpoint_every,
        previews: TRAIN_DEFAULTS.previews,
        method: Method::TextualInversion(TextualInversion {
            vectors: TRAIN_DEFAULTS.vectors,
            parameterization: TRAIN_DEFAULTS.parameterization,
            learning_rate: TRAIN_DEFAULTS.direction_learning_rate,
        }),
    };
    assert_eq!(spec, want);
}

#[test]
fn the_default_learning_rate_follows_the_parameterization() {
    let wire = inversion(|inversion| inversion.parameterization = Some(Parameterization::Adamw.encode()));
    let Method::TextualInversion(spec) = TrainSpec::resolve(wire, &MODEL).unwrap().method;
    assert_eq!(spec.learning_rate, TRAIN_DEFAULTS.adamw_learning_rate);
}

#[test]
fn train_fields_out_of_range_are_named() {
    let broken = [
        ("train.max_steps is 0", v1::TrainSpec { max_steps: Some(0), ..Default::default() }),
        ("train.batch_size is 65", v1::TrainSpec { batch_size: Some(65), ..Default::default() }),
        ("train.resolution is 60", v1::TrainSpec { resolution: Some(60), ..Default::default() }),
        ("train.evaluate_every is 0", v1::TrainSpec { evaluate_every: Some(0), ..Default::default() }),
        ("train.previews is 17", v1::TrainSpec { previews: Some(17), ..Default::default() }),
        ("set of templates 0", v1::TrainSpec { templates: Some(0), ..Default::default() }),
        ("train.vectors is 33", inversion(|inversion| inversion.vectors = Some(33))),
        ("train.learning_rate is NaN", inversion(|inversion| inversion.learning_rate = Some(f64::NAN))),
        ("train.learning_rate is inf", inversion(|inversion| inversion.learning_rate = Some(f64::INFINITY))),
        ("train.learning_rate is 0", inversion(|inversion| inversion.learning_rate = Some(0.0))),
        ("parameterization 7", inversion(|inversion| inversion.parameterization = Some(7))),
    ];
    for (named, wire) in broken {
        let refusal = TrainSpec::resolve(wire, &MODEL).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::InvalidArgument);
        assert!(refusal.message.starts_with(named), "{}", refusal.message);
    }
}

#[test]
fn render_fields_out_of_range_are_named() {
    let broken = [
        ("render.prompts holds 0", v1::RenderSpec::default()),
        ("render.steps is 0", v1::RenderSpec { steps: Some(0), ..render("{subject}") }),
        ("render.guidance is NaN", v1::RenderSpec { guidance: Some(f64::NAN), ..render("{subject}") }),
        ("render.guidance is 51", v1::RenderSpec { guidance: Some(51.0), ..render("{subject}") }),
        ("scheduler 9", v1::RenderSpec { scheduler: Some(9), ..render("{subject}") }),
        ("render.width is 63", v1::RenderSpec { width: Some(63), ..render("{subject}") }),
        ("render.height is 8192", v1::RenderSpec { height: Some(8192), ..render("{subject}") }),
        ("negative prompt", v1::RenderSpec { negative_prompt: "{subject}".into(), ..render("{subject}") }),
    ];
    for (named, wire) in broken {
        let refusal = RenderSpec::resolve(wire, &MODEL).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::InvalidArgument);
        assert!(refusal.message.starts_with(named), "{}", refusal.message);
    }
}

#[test]
fn a_prompt_without_the_subject_is_named() {
    let refusal = RenderSpec::resolve(render("a person at sea"), &MODEL).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::PromptWithoutSubject);
    assert!(refusal.message.contains("\"a person at sea\""), "{}", refusal.message);
}

#[test]
fn a_stored_spec_has_every_field() {
    assert!(TrainSpec::try_from(v1::TrainSpec::default()).is_err());
    assert!(RenderSpec::try_from(render("{subject}")).is_err());
    let stored = v1::RenderSpec::from(RenderSpec::resolve(render("{subject}"), &MODEL).unwrap());
    assert_eq!(stored.scheduler, Some(Scheduler::Unipc.encode()));
}

#[test]
fn previews_part_the_steps_evenly_and_short_trainings_have_fewer() {
    let points = |max_steps, previews| {
        let wire = v1::TrainSpec { max_steps: Some(max_steps), previews, ..Default::default() };
        let spec = TrainSpec::resolve(wire, &MODEL).unwrap();
        (0..=max_steps).filter(|step| spec.is_preview_point(*step)).collect::<Vec<_>>()
    };
    assert_eq!(points(400, None), [50, 100, 150, 200, 250, 300, 350]);
    assert_eq!(points(1000, Some(3)), [250, 500, 750]);
    assert_eq!(points(45, None), [11, 22, 33]);
    assert_eq!(points(20, None), [10]);
    assert_eq!(points(100_000, Some(16)).len(), 16);
    assert!(points(19, None).is_empty() && points(400, Some(0)).is_empty());
}

#[test]
fn a_spec_stored_before_there_were_previews_has_none() {
    let resolved = TrainSpec::resolve(v1::TrainSpec::default(), &MODEL).unwrap();
    let stored = v1::TrainSpec { previews: None, ..resolved.clone().into() };
    assert_eq!(TrainSpec::try_from(stored).unwrap(), TrainSpec { previews: 0, ..resolved });
}
