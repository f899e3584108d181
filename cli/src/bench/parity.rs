//! How far a device is from the CPU's own kernels: the same samples forwards and back, and the same picture, on both.

use super::train::{latents, refused};
use crate::args::{BenchParityArgs, TrainArgs};
use crate::commands::{Context, undrawn};
use crate::device::PrecisionWish;
use crate::exit::Failure;
use crate::models;
use likeness_diffusion::{BaseModel, Look, SamplerKind, Shot, Start, render};
use likeness_proto::TrainSpec;
use likeness_trainer::{Lesson, Subject};
use serde::Serialize;
use std::ops::ControlFlow;
use std::sync::Arc;

/// DDIM steps of the picture.
const STEPS: usize = 10;

#[derive(Debug, Serialize)]
pub(super) struct ParityView {
    work: &'static str,
    device: String,
    precision: PrecisionWish,
    /// Between the losses, relative to the CPU's.
    loss_gap: f64,
    /// Norm of the difference between the gradients, relative to that of the CPU's.
    gradient_gap: f64,
    gradient_cosine: f64,
    /// Largest difference between two values of the picture, of 255.
    picture_gap: u8,
    /// Mean difference.
    picture_mean_gap: f64,
}

struct Outcome {
    loss: f64,
    gradient: Vec<f64>,
    picture: Vec<u8>,
}

pub(super) fn measure(context: &Context, args: &BenchParityArgs) -> Result<ParityView, Failure> {
    let settings = &context.settings;
    let (want, model) = (outcome(models::load(&settings.on_cpu())?, args)?, models::load(settings)?);
    let device = format!("{:?}", model.device.location());
    let got = outcome(model, args)?;

    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norm = |a: &[f64]| dot(a, a).sqrt();
    let apart: Vec<f64> = got.gradient.iter().zip(&want.gradient).map(|(got, want)| got - want).collect();
    let pixels = got.picture.iter().zip(&want.picture).map(|(got, want)| got.abs_diff(*want));
    Ok(ParityView {
        work: "parity",
        device,
        precision: settings.precision,
        loss_gap: (got.loss - want.loss).abs() / want.loss,
        gradient_gap: norm(&apart) / norm(&want.gradient),
        gradient_cosine: dot(&got.gradient, &want.gradient) / (norm(&got.gradient) * norm(&want.gradient)),
        picture_gap: pixels.clone().max().unwrap_or_default(),
        picture_mean_gap: pixels.map(f64::from).sum::<f64>() / want.picture.len() as f64,
    })
}

fn outcome(model: BaseModel, args: &BenchParityArgs) -> Result<Outcome, Failure> {
    let model = Arc::new(model);
    let given = TrainArgs { batch: Some(args.batch), seed: Some(0), ..TrainArgs::default() };
    let spec = TrainSpec::resolve(given.spec(), &models::on_the_wire(&model)?.facts)?;
    let latents = latents(&model, &args.images, spec.resolution as usize)?;
    let subject = Subject { latents, init: "person".to_owned(), token: "<subject>".to_owned() };
    let lesson = Lesson::new(&model, &subject, &spec).map_err(refused)?;
    let rows = lesson.start().map_err(refused)?.rows();
    let (loss, gradient) = lesson.gradient(0, &rows).map_err(Failure::unexpected)?;

    let encode = |text: &str| model.tokenizer.encode(text, None).map_err(Failure::unexpected);
    let shot = Shot { prompt: encode("a portrait of a person")?, negative: encode("")?, noise: Start::Seed(0) };
    let side = model.native_size();
    let look = Look { sampler: SamplerKind::Ddim, steps: STEPS, guidance: 7.5, width: side, height: side };
    let drawn = render(&model, None, &[shot], &look, &mut |_| ControlFlow::Continue(())).map_err(undrawn)?;
    Ok(Outcome {
        loss: f64::from(loss),
        gradient: gradient.into_iter().map(f64::from).collect(),
        picture: drawn.into_iter().flat_map(|picture| picture.bytes).collect(),
    })
}
