use std::path::Path;
use std::sync::LazyLock;

use candle_core::Device;
use likeness_diffusion::{NoiseKey, Purpose};
use likeness_proto::{ModelFacts, Secret, TrainSpec, v1, v1::announcement::Task as Announced};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use super::*;
use crate::{
    Latents, Lesson, Subject, TrainError,
    collective::{Admission, Remote, serve},
    lesson::Batch,
    pass::{self, Ask},
};

static MODEL: LazyLock<Arc<BaseModel>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/avatar-tiny");
    Arc::new(BaseModel::load(&folder, &Device::Cpu).unwrap())
});

const AMPLE: Duration = Duration::from_secs(60);
const POSITIONS: usize = 256; // four samples of these lessons in a pass

/// Three photos of noise, 8×8 latents.
fn lesson(seed: u64, batch: u32, vectors: u32, channels: usize) -> Lesson {
    let noise = NoiseKey { seed, purpose: Purpose::Start, step: 0, sample: 0 };
    let upright = noise.normal((3, channels, 8, 8), &Device::Cpu).unwrap();
    let latents = Latents { upright, mirrored: None, captions: vec![None; 3], digest: [seed as u8; 32] };
    let facts = ModelFacts { native_size: MODEL.native_size() as u32, factor: MODEL.vae.factor() as u32 };
    let inversion = v1::TextualInversion { vectors: Some(vectors), ..v1::TextualInversion::default() };
    let method = Some(v1::train_spec::Method::TextualInversion(inversion));
    let wire = v1::TrainSpec { batch_size: Some(batch), seed: Some(seed), method, ..v1::TrainSpec::default() };
    let spec = TrainSpec::resolve(wire, &facts).unwrap();
    Lesson::new(&MODEL, &Subject { latents, init: "person".to_owned(), token: "<noise>".to_owned() }, &spec).unwrap()
}

/// Formed already.
fn crew(ranks: usize, placement: Placement) -> Crew {
    let mut crew = Crew::new(Some(Group::new(vec![Arc::clone(&MODEL); ranks], 0, AMPLE, Some(placement))));
    assert!(crew.ready(POSITIONS));
    crew
}

fn asks(lessons: &[Lesson], batch: Batch) -> Vec<Ask<'_>> {
    lessons.iter().map(|lesson| lesson.ask(batch, lesson.start().unwrap().rows())).collect()
}

/// The length of the difference over the length.
fn apart(got: &[f32], want: &[f32]) -> f64 {
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = length(&mut got.iter().zip(want).map(|(got, want)| f64::from(*got) - f64::from(*want)));
    difference / length(&mut want.iter().copied().map(f64::from))
}

#[test]
fn a_step_is_the_same_on_any_number_of_ranks() {
    let lessons = [lesson(1, 5, 2, 4), lesson(2, 1, 1, 4), lesson(3, 8, 1, 4)];
    let (steps, evaluations) = (asks(&lessons, Batch::Step(3)), asks(&lessons, Batch::Evaluation));
    let alone = pass::gradients(&steps, POSITIONS);
    let alone_evaluated = pass::losses(&evaluations, POSITIONS);
    let mut worst = 0.0f64;
    for (ranks, placement) in [1, 2, 3, 4].into_iter().flat_map(|n| [(n, Placement::Split), (n, Placement::Spread)]) {
        let mut crew = crew(ranks, placement);
        let together = crew.gradients(&steps, POSITIONS).unwrap();
        for (together, alone) in together.iter().zip(&alone) {
            let ((loss, gradient), (want, slope)) = (together.as_ref().unwrap(), alone.as_ref().unwrap());
            let differ = apart(gradient, slope).max(apart(&[*loss], &[*want]));
            assert!(differ < 1e-6, "{differ} apart on {ranks} ranks, {placement:?}");
            assert!(differ == 0.0 || (placement == Placement::Split && ranks > 1), "{ranks} ranks, {placement:?}");
            worst = worst.max(differ);
        }
        let evaluated = crew.losses(&evaluations, POSITIONS).unwrap();
        for (together, alone) in evaluated.iter().zip(&alone_evaluated) {
            assert!(apart(&[*together.as_ref().unwrap()], &[*alone.as_ref().unwrap()]) < 1e-6, "{ranks} ranks");
        }
    }
    println!("loss and gradient of a step on 2 to 4 ranks: at most {worst:.1e} from those on one");
}

#[test]
fn neighbours_do_not_show_in_a_subjects_sums() {
    let (own, others) = (lesson(1, 5, 2, 4), [lesson(2, 3, 1, 4), lesson(3, 8, 1, 4)]);
    let all = [others[0].clone(), own.clone(), others[1].clone()];
    let bits = |asked: &[Ask<'_>], place: usize| {
        let (loss, gradient) =
            crew(3, Placement::Split).gradients(asked, POSITIONS).unwrap().swap_remove(place).unwrap();
        (loss.to_bits(), gradient.into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    let alone = bits(&asks(std::slice::from_ref(&own), Batch::Step(0)), 0);
    assert_eq!(bits(&asks(&all, Batch::Step(0)), 1), alone);
}

#[test]
fn a_subject_that_fails_on_any_rank_fails_alone() {
    let lessons = [lesson(1, 3, 1, 4), lesson(2, 1, 1, 3), lesson(3, 2, 1, 4)];
    let asked = asks(&lessons, Batch::Step(0));
    let alone = pass::gradients(&asked, POSITIONS);
    let mut crew = crew(3, Placement::Split);
    for again in ["first", "again"] {
        let together = crew.gradients(&asked, POSITIONS).unwrap();
        assert!(together[1].is_err(), "three channels are not four");
        for place in [0, 2] {
            let (got, want) = (&together[place].as_ref().unwrap().1, &alone[place].as_ref().unwrap().1);
            assert!(apart(got, want) < 1e-6, "{again}, subject {place}");
        }
    }
}

#[test]
fn lessons_that_are_no_longer_asked_for_are_dropped_and_taught_again() {
    let (first, second) = (lesson(1, 4, 1, 4), lesson(2, 4, 1, 4));
    let mut crew = crew(2, Placement::Split);
    let mut loss = |lesson: &Lesson| {
        let asked = asks(std::slice::from_ref(lesson), Batch::Step(0));
        crew.gradients(&asked, POSITIONS).unwrap().swap_remove(0).unwrap().0
    };
    let losses = [loss(&first), loss(&second), loss(&first)];
    assert_eq!(losses[0], losses[2]);
    assert_ne!(losses[0], losses[1]);
}

#[test]
fn a_lost_group_says_so_and_forms_again() {
    let (runtime, token) = (Runtime::new().unwrap(), Secret::new("secret").unwrap());
    let group = Group::new(vec![Arc::clone(&MODEL)], 1, AMPLE, Some(Placement::Split));
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let leader = Endpoint::from_shared(format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let admission = Admission::Token(token.clone());
    runtime.spawn(serve(listener, group.assembly(), &admission, CancellationToken::new()));
    let mut crew = Crew::new(Some(group));
    assert!(!crew.ready(POSITIONS), "rank 1 is missing");
    // Rank 1 joins in a thread of its own and does `act`.
    let join = |act: fn(Remote)| {
        let (leader, token, runtime) = (leader.clone(), token.clone(), runtime.handle().clone());
        let join = async move { Remote::join(leader, Some(&token), &Terms::of(&MODEL, 2), 1, AMPLE).await.unwrap() };
        thread::spawn(move || act(runtime.block_on(join)))
    };
    let lesson = lesson(1, 4, 1, 4);
    let asked = asks(std::slice::from_ref(&lesson), Batch::Step(0));

    let dies = join(die_before_a_sum);
    while !crew.ready(POSITIONS) {}
    let lost = crew.gradients(&asked, POSITIONS).unwrap_err();
    dies.join().unwrap();
    assert!(matches!(lost, TrainError::PeerLost(_)), "{lost}");
    assert!(lost.to_string().contains("rank 0 waited in an all-reduce"), "{lost}");

    join(|mut end| drop(follow::obey(&mut end, &MODEL, POSITIONS)));
    while !crew.ready(POSITIONS) {}
    let (_, gradient) = crew.gradients(&asked, POSITIONS).unwrap().swap_remove(0).unwrap();
    let (_, alone) = pass::gradients(&asked, POSITIONS).swap_remove(0).unwrap();
    assert!(apart(&gradient, &alone) < 1e-6);
}

/// Takes part until gradients are wanted.
fn die_before_a_sum(mut end: Remote) {
    loop {
        let mut told = Vec::new();
        end.broadcast(&mut told).unwrap();
        match wire::announced(&told).unwrap() {
            Announced::Measurement(v1::Measurement { gradients: true, .. }) => return,
            Announced::Measurement(_) => end.all_reduce_sum(&mut [0.0]).unwrap(),
            _ => {}
        }
    }
}
