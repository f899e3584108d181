//! The bundled model and a small lesson on it.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use likeness_diffusion::{BaseModel, Device};
use likeness_proto::{Evaluation, ModelFacts, Parameterization, TrainSpec, v1};
use likeness_trainer::{Checkpoint, Latents, Learned, Observer, Photo, Subject};

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/avatar-tiny")
}

/// Loaded once for all tests of a file.
pub(crate) static MODEL: LazyLock<Arc<BaseModel>> =
    LazyLock::new(|| Arc::new(BaseModel::load(&folder(), &Device::Cpu).unwrap()));

/// Bytes of the first `count` photos of a bundled subject.
pub(crate) fn photos(subject: &str, count: usize) -> Vec<Vec<u8>> {
    let read = |i| std::fs::read(folder().join(format!("subjects/{subject}/{i:02}.png"))).unwrap();
    (1..=count).map(read).collect()
}

/// A bundled subject with its first `count` photos.
pub(crate) fn subject(name: &str, count: usize, flip: bool) -> Subject {
    subject_of(name, count, flip, MODEL.native_size())
}

/// The same with photos of `side` pixels.
pub(crate) fn subject_of(name: &str, count: usize, flip: bool, side: usize) -> Subject {
    let decode = |bytes: Vec<u8>| Photo::decode(name, &bytes, None, side).unwrap();
    let photos: Vec<Photo> = photos(name, count).into_iter().map(decode).collect();
    let latents = Latents::encode(&MODEL, &photos, flip, &Device::Cpu).unwrap();
    Subject { latents, init: "person".to_owned(), token: "<subject>".to_owned() }
}

/// A wire spec that takes its method's defaults but for what is given.
pub(crate) fn wire(parameterization: Parameterization, vectors: u32, rate: Option<f64>) -> v1::TrainSpec {
    let inversion = v1::TextualInversion {
        vectors: Some(vectors),
        parameterization: Some(parameterization.encode()),
        learning_rate: rate,
    };
    v1::TrainSpec { method: Some(v1::train_spec::Method::TextualInversion(inversion)), ..Default::default() }
}

pub(crate) fn resolve(wire: v1::TrainSpec) -> TrainSpec {
    let (native_size, factor) = (MODEL.native_size() as u32, MODEL.vae.factor() as u32);
    TrainSpec::resolve(wire, &ModelFacts { native_size, factor }).unwrap()
}

/// Two samples a step, evaluated every two steps, eight steps: seconds.
pub(crate) fn small(parameterization: Parameterization, vectors: u32) -> v1::TrainSpec {
    v1::TrainSpec {
        max_steps: Some(6),
        batch_size: Some(2),
        evaluate_every: Some(2),
        checkpoint_every: Some(2),
        ..wire(parameterization, vectors, None)
    }
}

/// Stops before step `at` and keeps what it was told.
#[derive(Default)]
pub(crate) struct Until {
    pub(crate) at: Option<u32>,
    pub(crate) step: u32,
    pub(crate) evaluated: Vec<Evaluation>,
    pub(crate) checkpoints: Vec<u32>,
}

impl Observer for Until {
    fn proceed(&mut self) -> ControlFlow<()> {
        if self.at == Some(self.step) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn stepped(&mut self, step: u32, _loss: f32) {
        self.step = step;
    }

    fn evaluated(&mut self, evaluation: Evaluation) {
        self.evaluated.push(evaluation);
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) {
        self.checkpoints.push(checkpoint.step);
    }
}

/// Everything a run learned, as bits.
#[derive(Debug, PartialEq)]
pub(crate) struct Bits {
    rows: Vec<u32>,
    losses: Vec<u32>,
    evaluations: Vec<(u32, u32)>,
    best_step: u32,
}

pub(crate) fn bits(learned: &Learned) -> Bits {
    let words = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect();
    Bits {
        rows: words(&learned.rows.flatten_all().unwrap().to_vec1::<f32>().unwrap()),
        losses: words(&learned.losses),
        evaluations: learned.evaluations.iter().map(|e| (e.step, e.loss.to_bits())).collect(),
        best_step: learned.best_step,
    }
}
