use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use candle_core::{Device, Tensor};
use likeness_diffusion::BaseModel;
use likeness_proto::{ModelFacts, TrainSpec, v1};

use super::*;
use crate::{Latents, Lesson, Subject};

fn model() -> Arc<BaseModel> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/avatar-tiny");
    Arc::new(BaseModel::load(&folder, &Device::Cpu).unwrap())
}

/// A grey subject of `steps` steps.
fn run(model: &Arc<BaseModel>, steps: u32) -> Run {
    let upright = Tensor::zeros((1, 4, 8, 8), candle_core::DType::F32, &Device::Cpu).unwrap();
    let latents = Latents { upright, mirrored: None, captions: vec![None], digest: [0; 32] };
    let subject = Subject { latents, init: "person".to_owned(), token: "<gray>".to_owned() };
    let facts = ModelFacts { native_size: model.native_size() as u32, factor: model.vae.factor() as u32 };
    let wire = v1::TrainSpec { max_steps: Some(steps), batch_size: Some(1), ..v1::TrainSpec::default() };
    let spec = TrainSpec::resolve(wire, &facts).unwrap();
    Run::begin(Lesson::new(model, &subject, &spec).unwrap(), None).unwrap()
}

/// Asked before each step, on the engine's thread.
struct Asked<F>(F);

impl<F: FnMut()> Observer for Asked<F> {
    fn proceed(&mut self) -> ControlFlow<()> {
        (self.0)();
        ControlFlow::Continue(())
    }
}

fn asked(ask: impl FnMut() + Send + 'static) -> Box<dyn Observer + Send> {
    Box::new(Asked(ask))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_fails_all_runs_under_way_and_the_next_one_gets_a_fresh_thread() {
    let (model, engine) = (model(), Engine::new(8192, None));
    let joined = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&joined);
    let panics = asked(move || assert!(!seen.load(Ordering::Relaxed), "on purpose"));
    let neighbour = asked(move || joined.store(true, Ordering::Relaxed));
    let (first, second) =
        tokio::join!(engine.learn(run(&model, 10_000), panics), engine.learn(run(&model, 10_000), neighbour));
    for error in [first.unwrap_err(), second.unwrap_err()] {
        assert!(error.to_string().contains("trainer-pack panicked"), "{error}");
        assert_eq!(error.verdict(), crate::Verdict::Retry);
    }
    assert_eq!(engine.learn(run(&model, 2), Box::new(())).await.unwrap().steps, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_waits_for_leaves_the_pack() {
    let (model, engine) = (model(), Arc::new(Engine::new(8192, None)));
    let (held, gone) = oneshot::channel::<()>();
    let (begin, began) = oneshot::channel();
    let mut begin = Some(begin);
    let observer = asked(move || {
        let _held = &held; // dropped with the observer
        begin.take().map(|begin| begin.send(()));
    });
    let (lent, endless) = (Arc::clone(&engine), run(&model, 100_000));
    let waiting = tokio::spawn(async move { lent.learn(endless, observer).await });
    began.await.unwrap();
    waiting.abort();
    assert!(gone.await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_thread_ends_with_the_engine() {
    thread_local! { static HELD: RefCell<Option<oneshot::Sender<()>>> = const { RefCell::new(None) } }
    let engine = Engine::new(8192, None);
    let (held, gone) = oneshot::channel();
    let mut held = Some(held);
    let observer = asked(move || HELD.with_borrow_mut(|slot| *slot = slot.take().or(held.take())));
    engine.learn(run(&model(), 1), observer).await.unwrap();
    drop(engine);
    assert!(gone.await.is_err(), "what the thread held is dropped when it ends");
}
