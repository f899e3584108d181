use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use likeness_diffusion::{Device, Placeholder, SamplerKind, Start};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;

static MODEL: LazyLock<Arc<BaseModel>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/avatar-tiny");
    Arc::new(BaseModel::load(&folder, &Device::Cpu).unwrap())
});

/// Room for so many pictures of 64 × 64 pixels.
fn batch(pictures: usize) -> Batch {
    Batch::new(Arc::clone(&MODEL), pictures * 64 * 64)
}

/// A subject whose one row is that of a word.
fn subject(word: &str) -> Subject {
    let rows = MODEL.text.rows(&MODEL.tokenizer.phrase(word)[..1]).unwrap();
    let embedding = Arc::new(Embedding { token: format!("<{word}>"), rows, facts: None });
    Subject { digest: Sha256::of(word.as_bytes()), embedding }
}

fn broken(word: &str) -> Subject {
    let Subject { embedding, .. } = subject(word);
    let rows = (&embedding.rows * f64::NAN).unwrap();
    let embedding = Arc::new(Embedding { rows, ..Embedding::clone(&embedding) });
    Subject { digest: Sha256::of(b"broken"), embedding }
}

fn prompt(text: &str) -> Prompt {
    MODEL.tokenizer.encode(text, Some(&Placeholder { token: "{subject}".to_owned(), vectors: 1 })).unwrap()
}

fn look(sampler: SamplerKind, steps: usize, guidance: f64, side: usize) -> Look {
    Look { sampler, steps, guidance, width: side, height: side }
}

/// Draws a subject `pictures` times.
fn order(subject: Subject, look: Look, pictures: u64) -> (Order, UnboundedReceiver<Drawn>) {
    let shot = |seed| {
        let text = if seed % 2 == 0 { "a photo of {subject}" } else { "{subject} in the snow" };
        Shot { prompt: prompt(text), negative: prompt("sepia"), noise: Start::Seed(seed) }
    };
    let (drawn, pictures_drawn) = unbounded_channel();
    let order = Order {
        subject,
        look,
        shots: (0..pictures).map(shot).collect(),
        wanted: Box::new(|| true),
        span: Span::none(),
        drawn,
    };
    (order, pictures_drawn)
}

/// What an order has got so far, by place.
fn got(drawn: &mut UnboundedReceiver<Drawn>) -> Vec<(usize, RgbPixels)> {
    let mut pictures: Vec<_> = std::iter::from_fn(|| drawn.try_recv().ok()).map(Result::unwrap).collect();
    pictures.sort_by_key(|(place, _)| *place);
    pictures
}

fn finish(batch: &mut Batch) -> Step {
    let mut all = Step::default();
    while !batch.is_empty() {
        all += batch.step();
    }
    all
}

/// An order's pictures, drawn without neighbours.
fn alone(subject: Subject, look: Look, pictures: u64) -> Vec<(usize, RgbPixels)> {
    let (order, mut drawn) = order(subject, look, pictures);
    let mut batch = batch(pictures as usize);
    batch.join(order);
    assert_eq!(finish(&mut batch), Step { passes: look.steps, pictures: look.steps * pictures as usize });
    got(&mut drawn)
}

#[test]
fn subjects_share_passes_and_each_gets_the_pixels_it_gets_alone() {
    let orders = [
        (subject("person"), look(SamplerKind::Ddim, 4, 4.0, 64), 2),
        (subject("red"), look(SamplerKind::EulerAncestral, 6, 1.0, 64), 2),
        (subject("snow"), look(SamplerKind::UniPc, 5, 3.0, 64), 1),
    ];
    let all_alone = orders.clone().map(|(subject, look, pictures)| alone(subject, look, pictures));
    assert!(all_alone[0][0].1 != all_alone[1][0].1, "subjects differ");

    // Each joins a step after the one before: 4 steps, 1 + 6 and 2 + 5. With less room some wait for others to be finished.
    for (room, passes) in [(5, Some(7)), (3, None), (1, Some(2 * 4 + 2 * 6 + 5))] {
        let (mut batch, mut made) = (batch(room), Step::default());
        let mut received = orders.clone().map(|(subject, look, pictures)| {
            let (order, drawn) = order(subject, look, pictures);
            batch.join(order);
            made += batch.step();
            drawn
        });
        made += finish(&mut batch);
        assert_eq!(made.pictures, 2 * 4 + 2 * 6 + 5);
        assert!(passes.is_none_or(|passes| passes == made.passes), "{made:?} with room for {room}");
        for (drawn, alone) in received.iter_mut().zip(&all_alone) {
            assert!(got(drawn) == *alone, "with room for {room}");
        }
    }
}

#[test]
fn pictures_of_another_size_have_a_pass_of_their_own() {
    let mut batch = batch(100);
    let (small, _small) = order(subject("person"), look(SamplerKind::Ddim, 2, 1.0, 64), 3);
    let (large, _large) = order(subject("red"), look(SamplerKind::Ddim, 2, 1.0, 128), 2);
    batch.join(small);
    batch.join(large);
    assert_eq!(batch.step(), Step { passes: 2, pictures: 5 });
}

#[test]
fn who_came_first_begins_first_even_where_a_later_one_would_fit() {
    let mut batch = batch(2);
    let drawn = [(64, 1), (128, 1), (64, 1)].map(|(side, steps)| {
        let (order, drawn) = order(subject("person"), look(SamplerKind::Ddim, steps, 1.0, side), 1);
        batch.join(order);
        drawn
    });
    for finished in 1..=3 {
        assert_eq!(batch.step(), Step { passes: 1, pictures: 1 });
        assert_eq!(drawn.iter().filter(|drawn| !drawn.is_empty()).count(), finished);
        assert!(!drawn[finished - 1].is_empty());
    }
}

#[test]
fn an_order_that_is_not_wanted_leaves_before_the_next_step_and_the_others_go_on() {
    let plain = look(SamplerKind::Ddim, 3, 4.0, 64);
    let endless = Look { steps: 999, ..plain };
    let mut batch = batch(2);
    let (mut stopped, mut stopped_drawn) = order(subject("red"), endless, 1);
    let (dropped, dropped_drawn) = order(subject("red"), endless, 2);
    let (stays, mut drawn) = order(subject("person"), plain, 2);
    let wanted = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&wanted);
    stopped.wanted = Box::new(move || asked.load(Ordering::Relaxed));
    [stopped, dropped, stays].into_iter().for_each(|order| batch.join(order));
    assert_eq!(batch.step().pictures, 2, "one of the first, one of the second");

    wanted.store(false, Ordering::Relaxed);
    drop(dropped_drawn);
    assert_eq!(batch.step().pictures, 2, "both of the third");
    assert_eq!(stopped_drawn.try_recv(), Ok(Err(WorkError::Stopped)));
    finish(&mut batch);
    assert!(got(&mut drawn) == alone(subject("person"), plain, 2));
}

#[test]
fn what_cannot_be_drawn_fails_alone() {
    let plain = look(SamplerKind::Ddim, 2, 4.0, 64);
    let mut batch = batch(4);
    let (poisoned, mut poisoned_drawn) = order(broken("red"), plain, 5);
    let (odd, mut odd_drawn) = order(subject("red"), Look { width: 65, ..plain }, 1);
    let (sound, mut drawn) = order(subject("person"), plain, 2);
    [poisoned, odd, sound].into_iter().for_each(|order| batch.join(order));
    finish(&mut batch);

    for (drawn, code) in [(&mut poisoned_drawn, ErrorCode::Diverged), (&mut odd_drawn, ErrorCode::InvalidArgument)] {
        let told = drawn.try_recv().unwrap();
        assert!(matches!(&told, Err(WorkError::Failed { code: told, retry: false, .. }) if *told == code), "{told:?}");
        assert!(drawn.try_recv().is_err(), "it is told once");
    }
    assert!(got(&mut drawn) == alone(subject("person"), plain, 2));
}

#[test]
fn a_prompt_is_encoded_once_for_each_subject_and_a_negative_one_once_for_all() {
    let contexts = Contexts::new(Arc::clone(&MODEL));
    let same = |text: &str, one: &Subject, other: &Subject| {
        let [one, other] = [one, other].map(|subject| contexts.get(subject, &prompt(text)).unwrap());
        Arc::ptr_eq(&one, &other)
    };
    let (person, red) = (subject("person"), subject("red"));
    assert!(same("a photo of {subject}", &person, &person));
    assert!(!same("a photo of {subject}", &person, &red));
    assert!(same("sepia", &person, &red));
}
