//! Which tasks a job's subject needs.

use likeness_proto::v1;
use likeness_proto::{RenderSpec, Specs, TaskKind};

/// Avatars of one render task: enough to fill a batch, few enough to lose little with a worker.
pub(crate) const RENDER_CHUNK: usize = 4;

/// What is known of a subject when its tasks are planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) photos: &'a [v1::Photo],
    pub(crate) init: &'a str,
    pub(crate) token: &'a str,
}

/// A task to be. Its work lacks what only earlier tasks can tell: embedding, checkpoint, avatars.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Planned {
    pub(crate) kind: TaskKind,
    /// Waits for no other task.
    pub(crate) ready: bool,
    /// Avatars it draws.
    pub(crate) shots: u32,
    /// What it takes of a worker, about, in samples through the UNet.
    pub(crate) cost: u32,
    pub(crate) work: v1::grant::Work,
}

/// The tasks of one subject, in the order of work. Every avatar is drawn by exactly one of them.
pub(crate) fn plan(specs: &Specs, source: Source<'_>) -> Vec<Planned> {
    let train = specs.train.clone().map(|spec| Planned {
        kind: TaskKind::Train,
        ready: true,
        shots: 0,
        // The way back costs twice the way there.
        cost: 3 * spec.max_steps * spec.batch_size,
        work: v1::grant::Work::Train(v1::TrainWork {
            spec: Some(spec.into()),
            photos: source.photos.to_vec(),
            init: source.init.to_owned(),
            token: source.token.to_owned(),
            checkpoint: None,
        }),
    });
    let shots = shots(&specs.render);
    let renders = shots.chunks(RENDER_CHUNK).map(|chunk| Planned {
        kind: TaskKind::Render,
        ready: specs.train.is_none(),
        shots: chunk.len() as u32,
        // With guidance and without.
        cost: 2 * specs.render.steps * chunk.len() as u32,
        work: v1::grant::Work::Render(render_work(&specs.render, chunk)),
    });
    let assemble = Planned {
        kind: TaskKind::Assemble,
        ready: false,
        shots: 0,
        cost: 1,
        work: v1::grant::Work::Assemble(v1::AssembleWork { photos: source.photos.to_vec(), avatars: Vec::new() }),
    };
    let planned: Vec<_> = train.into_iter().chain(renders).chain([assemble]).collect();
    let drawn: u32 = planned.iter().map(|task| task.shots).sum();
    assert_eq!(drawn as usize, specs.render.avatars(), "every avatar is drawn once");
    planned
}

/// A preview: the first avatar, drawn with the vectors as they are after `step` steps. The same for every step, so that one sees the same
/// picture become the subject. What to draw it with is filled in when it is granted.
pub(crate) fn preview(spec: &RenderSpec, step: u32) -> Planned {
    let mut shots = shots(spec);
    shots.truncate(1);
    Planned {
        kind: TaskKind::Preview,
        ready: true,
        shots: 0, // no avatar
        cost: 2 * spec.steps,
        work: v1::grant::Work::Preview(v1::PreviewWork { render: Some(render_work(spec, &shots)), step }),
    }
}

/// Every avatar: prompts in order, each with its seeds in order.
fn shots(spec: &RenderSpec) -> Vec<v1::Shot> {
    let each = spec.prompts.iter().flat_map(|prompt| prompt.seeds.iter().map(move |seed| (&prompt.text, *seed)));
    let numbered = each.enumerate();
    numbered.map(|(index, (prompt, seed))| v1::Shot { index: index as u32, prompt: prompt.clone(), seed }).collect()
}

fn render_work(spec: &RenderSpec, shots: &[v1::Shot]) -> v1::RenderWork {
    v1::RenderWork {
        embedding: None,
        shots: shots.to_vec(),
        negative_prompt: spec.negative_prompt.clone(),
        steps: spec.steps,
        guidance: spec.guidance,
        scheduler: spec.scheduler.encode(),
        width: spec.width,
        height: spec.height,
    }
}

/// A warning for each photo that training has to enlarge.
pub(crate) fn small_photos(specs: &Specs, subject: &str, photos: &[v1::Photo]) -> Vec<v1::Warning> {
    let Some(train) = &specs.train else { return Vec::new() };
    let side = train.resolution;
    let small = photos.iter().filter(|photo| photo.width.min(photo.height) < side);
    let warning = |photo: &v1::Photo| v1::Warning {
        code: v1::WarningCode::SmallPhoto.into(),
        message: format!(
            "photo {:?} is {}x{} pixels, smaller than the {side}x{side} that training looks at; enlarged",
            photo.file_name, photo.width, photo.height
        ),
        subject: subject.to_owned(),
    };
    small.map(warning).collect()
}
