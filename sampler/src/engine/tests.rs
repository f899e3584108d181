use std::cell::RefCell;
use std::path::Path;

use likeness_diffusion::{Device, Embedding, SamplerKind, Start};
use likeness_proto::Sha256;
use tokio::sync::oneshot;

use super::*;

fn engine() -> Engine {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/avatar-tiny");
    Engine::new(Arc::new(BaseModel::load(&folder, &Device::Cpu).unwrap()), 4 * 64 * 64)
}

/// Begins one picture.
fn draw(engine: &Engine, steps: usize, wanted: impl Fn() -> bool + Send + 'static) -> Drawing<'_> {
    let rows = engine.model.text.rows(&[0]).unwrap();
    let embedding = Arc::new(Embedding { token: "<nobody>".to_owned(), rows, facts: None });
    let prompt = engine.model.tokenizer.encode("a dog", None).unwrap();
    let shot = Shot { negative: prompt.clone(), prompt, noise: Start::Seed(7) };
    let look = Look { sampler: SamplerKind::Ddim, steps, guidance: 1.0, width: 64, height: 64 };
    engine.draw(Subject { digest: Sha256::of(b"nobody"), embedding }, look, vec![shot], wanted).unwrap()
}

#[tokio::test]
async fn a_panic_fails_all_orders_under_way_and_the_next_one_gets_a_fresh_thread() {
    let engine = engine();
    let mut neighbour = draw(&engine, 999, || true);
    let mut panics = draw(&engine, 999, || panic!("on purpose"));
    for drawing in [&mut neighbour, &mut panics] {
        let error = drawing.next().await.unwrap_err();
        assert!(
            matches!(&error, WorkError::Failed { message, retry: true, .. } if message.contains("sampler-batch panicked"))
        );
    }
    assert_eq!(draw(&engine, 2, || true).next().await.unwrap().0, 0);
}

#[tokio::test]
async fn a_drawing_that_is_dropped_leaves_the_batch() {
    let engine = engine();
    let (held, gone) = oneshot::channel::<()>();
    let (begin, mut began) = tokio::sync::mpsc::unbounded_channel();
    let drawing = draw(&engine, 999, move || {
        let _held = &held; // dropped with the order
        let _ = begin.send(());
        true
    });
    began.recv().await.unwrap();
    drop(drawing);
    assert!(gone.await.is_err());
}

#[tokio::test]
async fn the_thread_ends_with_the_engine() {
    thread_local! { static HELD: RefCell<Option<oneshot::Sender<()>>> = const { RefCell::new(None) } }
    let engine = engine();
    let (held, gone) = oneshot::channel();
    let held = Mutex::new(Some(held));
    let wanted = move || {
        HELD.with_borrow_mut(|slot| *slot = slot.take().or(locked(&held).take()));
        true
    };
    draw(&engine, 1, wanted).next().await.unwrap();
    drop(engine);
    assert!(gone.await.is_err(), "what the thread held is dropped when it ends");
}
