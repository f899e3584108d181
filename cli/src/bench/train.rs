//! Steps of a textual inversion.

use super::{median, peak_mib};
use crate::args::{BenchTrainArgs, TrainArgs};
use crate::commands::Context;
use crate::exit::{Exit, Failure};
use crate::group::Node;
use crate::{models, photos};
use likeness_diffusion::BaseModel;
use likeness_diffusion::memory::of_gpu;
use likeness_proto::{Parameterization, TrainSpec};
use likeness_trainer::{Latents, Lesson, Photo, Ranks, Subject, TrainError};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Losses at the end that are averaged.
const LAST: usize = 10;

/// The peer's fields, then our own.
#[derive(Debug, Serialize)]
pub(super) struct TrainView {
    work: &'static str,
    batch: u32,
    size: u32,
    /// Devices that share a step's samples.
    ranks: usize,
    /// Median.
    seconds_per_step: f64,
    first_losses: Vec<f32>,
    mean_last_losses: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_mib: Option<f64>,
    /// Of the GPU: what is taken at the end, with what is kept of freed memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_peak_mib: Option<f64>,
    /// From the start of the command to the model being there.
    load_seconds: f64,
    /// From the start of the command to the end of the first step.
    first_step_seconds: f64,
}

pub(super) fn measure(context: &Context, args: &BenchTrainArgs) -> Result<TrainView, Failure> {
    let began = Instant::now();
    let model = Arc::new(models::load(&context.settings)?);
    let load_seconds = began.elapsed().as_secs_f64();
    let spec = spec(args, &model)?;
    let subject = Subject {
        latents: latents(&model, &args.images, spec.resolution as usize)?,
        init: args.initializer.clone(),
        token: "<subject>".to_owned(),
    };
    let lesson = Lesson::new(&model, &subject, &spec).map_err(refused)?;

    let group = Node::of(&context.settings)?.split(&context.settings, &model)?;
    let (mut ranks, mut optimizer) = (Ranks::new(group), lesson.start().map_err(refused)?);
    let (mut seconds, mut losses, mut first_step) = (Vec::new(), Vec::new(), None);
    for step in 0..args.warmup + args.steps {
        let step_began = Instant::now();
        let (loss, gradient) = ranks.gradient(&lesson, step, &optimizer.rows()).map_err(refused)?;
        // The rate as it is given: the peer does not scale it to the batch.
        optimizer.step(step, &gradient, args.lr);
        seconds.push(step_began.elapsed().as_secs_f64());
        losses.push(loss);
        first_step.get_or_insert_with(|| began.elapsed().as_secs_f64());
    }

    let losses = &losses[args.warmup as usize..];
    let last = &losses[losses.len().saturating_sub(LAST)..];
    Ok(TrainView {
        work: "train",
        batch: args.batch,
        size: spec.resolution,
        ranks: context.settings.ranks,
        seconds_per_step: median(seconds.split_off(args.warmup as usize)),
        first_losses: losses.iter().take(3).copied().collect(),
        mean_last_losses: last.iter().copied().map(f64::from).sum::<f64>() / last.len() as f64,
        peak_mib: peak_mib(),
        gpu_peak_mib: of_gpu(&model.device).map(|(taken, _)| taken as f64 / f64::from(1 << 20)),
        load_seconds,
        first_step_seconds: first_step.unwrap_or_default(),
    })
}

/// AdamW as the peer runs it; everything else as a job would have it.
fn spec(args: &BenchTrainArgs, model: &BaseModel) -> Result<TrainSpec, Failure> {
    let given = TrainArgs {
        vectors: Some(args.vectors),
        steps: Some(args.steps),
        batch: Some(args.batch),
        seed: Some(args.seed),
        resolution: args.size,
        parameterization: Some(Parameterization::Adamw),
        learning_rate: Some(args.lr),
        ..TrainArgs::default()
    };
    Ok(TrainSpec::resolve(given.spec(), &models::on_the_wire(model)?.facts)?)
}

/// The photos of a folder, encoded; captions are left out, as by the peer.
pub(super) fn latents(model: &BaseModel, folder: &Path, side: usize) -> Result<Latents, Failure> {
    let read = |file: photos::PhotoFile| {
        let bytes = std::fs::read(&file.path)
            .map_err(|error| Failure::new(Exit::Photos, format!("cannot read {}: {error}", file.path.display())))?;
        Photo::decode(&file.name, &bytes, None, side).map_err(refused)
    };
    let photos: Vec<Photo> = photos::in_folder(folder)?.into_iter().map(read).collect::<Result<_, _>>()?;
    Latents::encode(model, &photos, false, &model.device).map_err(refused)
}

pub(super) fn refused(error: TrainError) -> Failure {
    Failure::refused(error.code(), error.to_string())
}
