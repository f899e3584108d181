//! Subjects one after the other against the same subjects in one pack.

use super::peak_mib;
use super::train::{latents, refused};
use crate::args::{BenchPackArgs, TrainArgs};
use crate::bundle::Bundle;
use crate::commands::Context;
use crate::exit::Failure;
use crate::{models, photos};
use likeness_proto::TrainSpec;
use likeness_trainer::{Lesson, Packing, Subject, time_packing};
use serde::Serialize;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Serialize)]
pub(super) struct PackView {
    work: &'static str,
    subjects: usize,
    slots: NonZeroUsize,
    batch: u32,
    /// At most, of each subject.
    steps: u32,
    /// One after the other.
    seconds_alone: f64,
    /// In one pack, refilled as subjects end.
    seconds_packed: f64,
    /// Subjects per minute, packed over alone.
    gain: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_mib: Option<f64>,
}

/// Every subject is learned as a job would learn it: evaluations and the rule that stops are part of the time.
pub(super) fn measure(context: &Context, args: &BenchPackArgs) -> Result<PackView, Failure> {
    let model = Arc::new(models::load(&context.settings)?);
    let facts = models::on_the_wire(&model)?.facts;
    let folders: Vec<PathBuf> = match &args.dataset {
        Some(dataset) => photos::subjects_in(dataset)?,
        None => photos::subjects_in(&Bundle::find()?.subjects())?,
    }
    .into_iter()
    .map(|(_, folder)| folder)
    .collect();
    let lesson = |(seed, folder): (u64, &PathBuf)| {
        let given =
            TrainArgs { batch: Some(args.batch), steps: Some(args.steps), seed: Some(seed), ..TrainArgs::default() };
        let spec = TrainSpec::resolve(given.spec(), &facts)?;
        let latents = latents(&model, folder, spec.resolution as usize)?;
        let subject = Subject { latents, init: args.initializer.clone(), token: format!("<subject-{seed}>") };
        Lesson::new(&model, &subject, &spec).map_err(refused)
    };
    let lessons: Vec<Lesson> =
        (0..).zip(folders.iter().cycle()).take(args.subjects.get()).map(lesson).collect::<Result<_, _>>()?;

    let slots = args.slots.unwrap_or(args.subjects);
    let times = time_packing(&lessons, Packing { slots, ..Packing::default() }).map_err(refused)?;
    Ok(PackView {
        work: "pack",
        subjects: lessons.len(),
        slots,
        batch: args.batch,
        steps: args.steps,
        seconds_alone: times.alone,
        seconds_packed: times.packed,
        gain: times.alone / times.packed,
        peak_mib: peak_mib(),
    })
}
