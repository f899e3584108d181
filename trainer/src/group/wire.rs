//! What rank 0 tells the others, as it travels.

use likeness_diffusion::BaseModel;
use likeness_proto::v1::{self, announcement::Task};
use prost::Message;

use candle_core::{Device, Tensor};

use crate::{Latents, Lesson, Subject, TrainError, lesson::Batch, pass::Ask};
use std::sync::Arc;

/// An announcement's bytes.
pub(super) fn announce(task: Task) -> Vec<u8> {
    v1::Announcement { task: Some(task) }.encode_to_vec()
}

/// What was announced.
pub(super) fn announced(bytes: &[u8]) -> Result<Task, TrainError> {
    let announcement = v1::Announcement::decode(bytes).map_err(|error| garbled(&error))?;
    announcement.task.ok_or_else(|| garbled(&"it has no task"))
}

/// A lesson for other ranks, under `number`.
pub(super) fn lesson(number: u64, lesson: &Lesson) -> candle_core::Result<v1::Lesson> {
    let Subject { latents, init, token } = lesson.subject();
    let numbers = |latents: &Tensor| -> candle_core::Result<Vec<u8>> {
        Ok(latents.flatten_all()?.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect())
    };
    Ok(v1::Lesson {
        number,
        spec: Some(lesson.spec().clone().into()),
        init: init.clone(),
        token: token.clone(),
        shape: latents.upright.dims().iter().map(|side| *side as u32).collect(),
        upright: numbers(&latents.upright)?,
        mirrored: latents.mirrored.as_ref().map_or(Ok(Vec::new()), numbers)?,
        captions: latents.captions.iter().map(|caption| caption.clone().unwrap_or_default()).collect(),
        digest: latents.digest.to_vec(),
    })
}

/// The lesson that another rank sent, on the device of `model`.
pub(super) fn lesson_of(wire: v1::Lesson, model: &Arc<BaseModel>) -> Result<Lesson, TrainError> {
    let v1::Lesson { number: _, spec, init, token, shape, upright, mirrored, captions, digest } = wire;
    let shape: Vec<usize> = shape.into_iter().map(|side| side as usize).collect();
    let tensor = |bytes: &[u8]| {
        let numbers: Vec<f32> = bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
        Tensor::from_vec(numbers, shape.as_slice(), &Device::Cpu)?.to_device(&model.device)
    };
    let latents = Latents {
        upright: tensor(&upright)?,
        mirrored: if mirrored.is_empty() { None } else { Some(tensor(&mirrored)?) },
        captions: captions.into_iter().map(|caption| Some(caption).filter(|caption| !caption.is_empty())).collect(),
        digest: digest.try_into().map_err(|_| garbled(&"a digest is not of 32 bytes"))?,
    };
    let spec = spec.ok_or_else(|| garbled(&"a lesson has no spec"))?;
    let spec = spec.try_into().map_err(|refusal| garbled(&refusal))?;
    Lesson::new(model, &Subject { latents, init, token }, &spec)
}

/// A subject's samples for other ranks.
pub(super) fn ask(number: u64, ask: &Ask<'_>) -> v1::SubjectAsk {
    let step = match ask.batch {
        Batch::Step(step) => Some(step),
        Batch::Evaluation => None,
    };
    v1::SubjectAsk { lesson: number, step, rows: ask.rows.clone() }
}

/// The samples that another rank asks for.
pub(super) fn ask_of(wire: v1::SubjectAsk, lesson: &Lesson) -> Ask<'_> {
    lesson.ask(wire.step.map_or(Batch::Evaluation, Batch::Step), wire.rows)
}

/// Ranks of one version do not garble; the group ends.
pub(super) fn garbled(why: &dyn std::fmt::Display) -> TrainError {
    TrainError::Crashed(format!("an announcement of rank 0 is not understood: {why}"))
}
