//! `render`: one picture in this process, without a service.

use super::{Context, embedding};
use crate::args::RenderArgs;
use crate::exit::{Exit, Failure};
use crate::{files, models};
use candle_core::safetensors::load;
use indicatif::ProgressBar;
use likeness_diffusion::{
    BaseModel, Device, Embedding, Look, Placeholder, Prompt, RenderError, SamplerKind, Shot, Start, Tensor, render,
};
use likeness_proto::{ErrorCode, SUBJECT_SLOT, Scheduler};
use likeness_sampler::picture::{Origin, Provenance, to_png};
use serde::Serialize;
use std::ops::ControlFlow;
use std::path::Path;

#[derive(Serialize)]
struct RenderedView {
    out: String,
    prompt: String,
    seed: u64,
    width: usize,
    height: usize,
    base_model: String,
}

pub(super) fn command(context: &Context, args: &RenderArgs) -> Result<(), Failure> {
    let learned = args.embedding.as_deref().map(embedding::read).transpose()?;
    let model = models::load(&context.settings)?;
    if let Some(learned) = &learned {
        learned
            .check_base(&model.digest)
            .map_err(|error| Failure::refused(ErrorCode::ModelMismatch, error.to_string()))?;
    }
    let shot = shot(context, args, &model, learned.as_ref())?;
    let look = look(args, &model);
    let pixels = draw(context, &model, learned.as_ref(), shot, &look)?;
    let provenance = Provenance { origin: Origin::Drawn, job: None, base_model: model.digest.clone(), preview: None };
    files::write(&args.out, &to_png(&pixels, &provenance).map_err(Failure::unexpected)?)?;
    let view = RenderedView {
        out: args.out.display().to_string(),
        prompt: args.prompt.clone(),
        seed: args.seed,
        width: look.width,
        height: look.height,
        base_model: model.digest.to_string(),
    };
    context.format.print(&view, |view| view.out.clone())
}

fn draw(
    context: &Context,
    model: &BaseModel,
    learned: Option<&Embedding>,
    shot: Shot,
    look: &Look,
) -> Result<likeness_diffusion::RgbPixels, Failure> {
    let bar = context.console.bars().map(|bars| bars.add(ProgressBar::new(look.steps as u64)));
    let mut progress = |step: usize| {
        bar.iter().for_each(|bar| bar.set_position(step as u64));
        ControlFlow::Continue(())
    };
    let drawn = render(model, learned.map(|learned| &learned.rows), &[shot], look, &mut progress);
    bar.iter().for_each(ProgressBar::finish_and_clear);
    drawn.map_err(undrawn)?.into_iter().next().ok_or_else(|| Failure::unexpected("one shot gave no picture"))
}

/// The failure of a picture that was not drawn.
pub(crate) fn undrawn(error: RenderError) -> Failure {
    match error {
        RenderError::Look { .. } => Failure::refused(ErrorCode::InvalidArgument, error.to_string()),
        error => Failure::unexpected(error),
    }
}

fn shot(context: &Context, args: &RenderArgs, model: &BaseModel, learned: Option<&Embedding>) -> Result<Shot, Failure> {
    let text = with_token(&args.prompt, learned)?;
    let placeholder = learned.map(placeholder).transpose()?;
    let prompt = encode(context, model, &text, placeholder.as_ref())?;
    if learned.is_some() && prompt.slots.is_empty() {
        context
            .console
            .say("warning: the prompt holds neither {subject} nor the embedding's token; the embedding is not used");
    }
    let noise = match &args.latents {
        Some(path) => Start::Latents(latents(path)?, args.seed),
        None => Start::Seed(args.seed),
    };
    Ok(Shot { prompt, negative: encode(context, model, &args.negative, placeholder.as_ref())?, noise })
}

fn placeholder(learned: &Embedding) -> Result<Placeholder, Failure> {
    let vectors = learned.rows.dim(0).map_err(Failure::unexpected)?;
    Ok(Placeholder { token: learned.token.clone(), vectors })
}

/// `{subject}` is the embedding's token.
fn with_token(prompt: &str, learned: Option<&Embedding>) -> Result<String, Failure> {
    match learned {
        Some(learned) => Ok(prompt.replace(SUBJECT_SLOT, &learned.token)),
        None if prompt.contains(SUBJECT_SLOT) => Err(Failure::new(
            Exit::Usage,
            format!("the prompt holds {SUBJECT_SLOT}; say who that is with --embedding FILE"),
        )),
        None => Ok(prompt.to_owned()),
    }
}

fn encode(context: &Context, model: &BaseModel, text: &str, subject: Option<&Placeholder>) -> Result<Prompt, Failure> {
    let prompt = model
        .tokenizer
        .encode(text, subject)
        .map_err(|error| Failure::refused(ErrorCode::PromptTooLong, error.to_string()))?;
    if let Some(cut) = &prompt.cut {
        context.console.say(format!("warning: the prompt is longer than the text encoder reads; cut off: {cut}"));
    }
    Ok(prompt)
}

fn look(args: &RenderArgs, model: &BaseModel) -> Look {
    let side = |given: Option<u32>| given.or(args.size).map_or(model.native_size(), |pixels| pixels as usize);
    Look {
        sampler: sampler(args.scheduler),
        steps: args.steps as usize,
        guidance: args.guidance,
        width: side(args.width),
        height: side(args.height),
    }
}

fn sampler(scheduler: Scheduler) -> SamplerKind {
    match scheduler {
        Scheduler::Ddim => SamplerKind::Ddim,
        Scheduler::EulerAncestral => SamplerKind::EulerAncestral,
        Scheduler::Unipc => SamplerKind::UniPc,
    }
}

/// The one tensor `(1, c, h, w)` of a latents file, as `(c, h, w)`.
fn latents(path: &Path) -> Result<Tensor, Failure> {
    let refuse = |why: &dyn std::fmt::Display| {
        Failure::new(Exit::Embedding, format!("cannot read the latents {}: {why}", path.display()))
    };
    let tensors = load(path, &Device::Cpu).map_err(|error| refuse(&error))?;
    let count = tensors.len();
    let mut tensors = tensors.into_values();
    let (Some(latents), None) = (tensors.next(), tensors.next()) else {
        return Err(refuse(&format!("it holds {count} tensors; exactly one (1, channels, height, width) is accepted")));
    };
    match latents.dims() {
        [1, _, _, _] => latents
            .squeeze(0)
            .and_then(|latents| latents.to_dtype(candle_core::DType::F32))
            .map_err(Failure::unexpected),
        shape => Err(refuse(&format!("its tensor has the shape {shape:?}; (1, channels, height, width) is accepted"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn file(tensors: &[(&str, &[usize])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
        let map: HashMap<&str, Tensor> = tensors.iter().map(|(name, shape)| (*name, zeros(shape))).collect();
        candle_core::safetensors::save(&map, file.path()).unwrap();
        file
    }

    #[test]
    fn latents_are_one_tensor_of_one_picture() {
        assert_eq!(latents(file(&[("x", &[1, 4, 2, 3])]).path()).unwrap().dims(), [4, 2, 3]);
        for (tensors, why) in [
            (vec![("x", [1usize, 4, 2, 2].as_slice()), ("y", &[1, 4, 2, 2])], "2 tensors"),
            (vec![("x", &[2, 4, 2, 2])], "[2, 4, 2, 2]"),
        ] {
            let failure = latents(file(&tensors).path()).unwrap_err();
            assert!(failure.exit == Exit::Embedding && failure.message.contains(why), "{failure}");
        }
    }

    #[test]
    fn the_subject_of_a_prompt_needs_an_embedding() {
        assert_eq!(with_token("a photo of {subject}", None).unwrap_err().exit, Exit::Usage);
        assert_eq!(with_token("a photo of a person", None).unwrap(), "a photo of a person");
        let rows = Tensor::zeros((1, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        let learned = Embedding { token: "<ada>".to_owned(), rows, facts: None };
        assert_eq!(with_token("{subject}, smiling", Some(&learned)).unwrap(), "<ada>, smiling");
    }
}
