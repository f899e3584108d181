//! A batch of pictures, from prompts to pixels.

use super::{median, peak_mib};
use crate::args::BenchRenderArgs;
use crate::commands::{Context, undrawn};
use crate::exit::Failure;
use crate::models;
use likeness_diffusion::{BaseModel, Look, SamplerKind, Shot, Start, render};
use serde::Serialize;
use std::ops::ControlFlow;
use std::time::Instant;

/// The peer's fields, then our own.
#[derive(Debug, Serialize)]
pub(super) struct RenderView {
    work: &'static str,
    images_per_batch: u32,
    steps: u32,
    size: usize,
    /// Median over the repeats.
    seconds_per_image: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_mib: Option<f64>,
    /// From the start of the command to the model being there.
    load_seconds: f64,
}

pub(super) fn measure(context: &Context, args: &BenchRenderArgs) -> Result<RenderView, Failure> {
    let began = Instant::now();
    let model = models::load(&context.settings)?;
    let load_seconds = began.elapsed().as_secs_f64();
    let size = args.size.map_or(model.native_size(), |side| side as usize);
    let look = Look {
        sampler: SamplerKind::Ddim,
        steps: args.steps as usize,
        guidance: args.guidance,
        width: size,
        height: size,
    };

    let mut seconds = Vec::new();
    for _ in 0..args.repeats {
        let batch_began = Instant::now();
        render(&model, None, &shots(&model, args)?, &look, &mut |_| ControlFlow::Continue(())).map_err(undrawn)?;
        seconds.push(batch_began.elapsed().as_secs_f64() / f64::from(args.images_per_batch));
    }

    Ok(RenderView {
        work: "render",
        images_per_batch: args.images_per_batch,
        steps: args.steps,
        size,
        seconds_per_image: median(seconds),
        peak_mib: peak_mib(),
        load_seconds,
    })
}

fn shots(model: &BaseModel, args: &BenchRenderArgs) -> Result<Vec<Shot>, Failure> {
    let encode = |text: &str| model.tokenizer.encode(text, None).map_err(Failure::unexpected);
    let (prompt, negative) = (encode(&args.prompt)?, encode("")?);
    let seeds = (0..args.images_per_batch).map(|picture| args.seed.wrapping_add(u64::from(picture)));
    Ok(seeds
        .map(|seed| Shot { prompt: prompt.clone(), negative: negative.clone(), noise: Start::Seed(seed) })
        .collect())
}
