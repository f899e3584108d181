//! Rendering on a tiny random model: what a picture depends on, and what is refused.
#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

#[path = "../src/golden.rs"]
#[allow(dead_code, unreachable_pub)]
mod golden;

use std::ops::ControlFlow;

use candle_core::{Tensor, Var};
use likeness_diffusion::{
    BaseModel, Context, Device, Look, NoiseKey, Placeholder, Purpose, RenderError, RgbPixels, SamplerKind, Shot, Start,
    render,
};

struct Studio {
    model: BaseModel,
    learned: Tensor,
}

impl Studio {
    fn new() -> Self {
        let model = BaseModel::load(&golden::model("sd15-like"), &Device::Cpu).unwrap();
        let learned = golden::noise(1, &[2, model.text.width()]);
        Self { model, learned }
    }

    fn shot(&self, prompt: &str, negative: &str, noise: Start) -> Shot {
        let placeholder = Placeholder { token: "<subject>".to_owned(), vectors: 2 };
        let encode = |text| self.model.tokenizer.encode(text, Some(&placeholder)).unwrap();
        Shot { prompt: encode(prompt), negative: encode(negative), noise }
    }

    fn try_render(&self, shots: &[Shot], look: &Look) -> Result<Vec<RgbPixels>, RenderError> {
        render(&self.model, Some(&self.learned), shots, look, &mut |_| ControlFlow::Continue(()))
    }

    fn render(&self, shots: &[Shot], look: &Look) -> Vec<RgbPixels> {
        self.try_render(shots, look).unwrap()
    }
}

fn look(sampler: SamplerKind) -> Look {
    Look { sampler, steps: 4, guidance: 3.0, width: 16, height: 12 }
}

#[test]
fn a_picture_depends_on_its_own_shot_and_not_on_the_batch_it_is_in() {
    let studio = Studio::new();
    for sampler in [SamplerKind::Ddim, SamplerKind::EulerAncestral, SamplerKind::UniPc] {
        let look = look(sampler);
        let subject = studio.shot("a photo of <subject>", "red", Start::Seed(7));
        let batch = [
            studio.shot("a dog", "", Start::Seed(1)),
            subject.clone(),
            studio.shot("a photo of <subject>", "red", Start::Seed(8)),
            studio.shot("a dog", "", Start::Seed(7)),
        ];
        let pictures = studio.render(&batch, &look);
        let alone = &studio.render(&[subject], &look)[0];
        assert_eq!((alone.width, alone.height, alone.bytes.len()), (16, 12, 3 * 16 * 12));
        assert_eq!(&pictures[1], alone, "{sampler}");
        let others = [&pictures[0], &pictures[2], &pictures[3]];
        assert!(others.iter().all(|other| *other != alone), "prompt and seed matter");
    }
}

#[test]
fn given_latents_stand_in_for_the_seeds_own() {
    let studio = Studio::new();
    let key = NoiseKey { seed: 5, purpose: Purpose::Latents, step: 0, sample: 0 };
    let latents = key.normal((4, 6, 8), &Device::Cpu).unwrap();
    let [given, drawn] = [Start::Latents(latents, 5), Start::Seed(5)]
        .map(|start| studio.render(&[studio.shot("a dog", "", start)], &look(SamplerKind::EulerAncestral)));
    assert_eq!(given, drawn);
}

#[test]
fn the_negative_prompt_matters_only_under_guidance() {
    let studio = Studio::new();
    let with = |negative, guidance| {
        let shot = studio.shot("a dog", negative, Start::Seed(3));
        studio.render(&[shot], &Look { guidance, ..look(SamplerKind::Ddim) })
    };
    assert_ne!(with("red", 4.0), with("", 4.0));
    assert_eq!(with("red", 1.0), with("", 1.0));
}

#[test]
fn rendering_stops_when_told_to_and_says_after_which_step() {
    let studio = Studio::new();
    let shots = [studio.shot("a dog", "", Start::Seed(3))];
    let mut seen = Vec::new();
    let mut stop = |step| {
        seen.push(step);
        if step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let error = render(&studio.model, None, &shots, &look(SamplerKind::Ddim), &mut stop).unwrap_err();
    assert!(matches!(error, RenderError::Stopped { step: 2, steps: 4 }));
    assert_eq!(seen, [1, 2]);
}

#[test]
fn what_cannot_be_drawn_is_refused_by_name() {
    let studio = Studio::new();
    let shots = [studio.shot("a dog", "", Start::Seed(3))];
    let plain = look(SamplerKind::Ddim);
    let refusal = |look| studio.try_render(&shots, &look).unwrap_err().to_string();
    assert!(refusal(Look { width: 17, ..plain }).contains("width 17; accepted: multiples of 2"));
    assert!(refusal(Look { guidance: f64::NAN, ..plain }).contains("guidance NaN"));
    assert!(refusal(Look { steps: 0, ..plain }).contains("0 steps"));
    let odd = Start::Latents(golden::noise(1, &[4, 6, 6]), 0);
    let error = studio.try_render(&[studio.shot("a dog", "", odd)], &plain).unwrap_err().to_string();
    assert!(error.contains("latents of shape [4, 6, 6]; accepted: (4, 6, 8)"), "{error}");
    let unlearned = studio.shot("<subject>", "", Start::Seed(1));
    let error = render(&studio.model, None, &[unlearned], &plain, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().contains("slots for learned rows"), "{error}");
    assert!(studio.try_render(&[], &plain).unwrap().is_empty());
}

#[test]
fn a_broken_embedding_is_an_error_and_no_picture() {
    let mut studio = Studio::new();
    studio.learned = (&studio.learned * f64::NAN).unwrap();
    let shots = [studio.shot("a dog", "", Start::Seed(3)), studio.shot("<subject>", "", Start::Seed(3))];
    let error = studio.try_render(&shots, &look(SamplerKind::Ddim)).unwrap_err();
    assert!(matches!(error, RenderError::NotFinite { shot: 1 }), "{error}");
}

#[test]
fn networks_refuse_inputs_that_do_not_fit() {
    let Studio { model, learned } = Studio::new();
    let (latents, context) = (golden::noise(1, &[2, 4, 8, 8]), golden::noise(2, &[2, 77, 16]));
    let refusal = |result: candle_core::Result<Tensor>| result.unwrap_err().to_string();
    assert!(refusal(model.unet.forward(&latents, &[1], &context)).contains("2 latents, 1 timesteps and 2 contexts"));
    let own = model.unet.context(&context.get(0).unwrap()).unwrap();
    let predict = |contexts: &[Vec<&Context>]| refusal(model.unet.predict(&latents, &[1.0, 2.0], contexts));
    assert!(predict(&[vec![&own], vec![]]).contains("2 latents, 2 timesteps and contexts of 1"));
    let strange = BaseModel::load(&golden::model("avatar-tiny"), &Device::Cpu).unwrap();
    let strange = strange.unet.context(&golden::noise(2, &[77, strange.text.width()])).unwrap();
    assert!(!predict(&[vec![&own], vec![&strange]]).is_empty());
    let narrow = golden::noise(2, &[2, 77, 8]);
    assert!(refusal(model.unet.forward(&latents, &[1, 2], &narrow)).contains("context of width 8"));
    assert!(refusal(model.vae.encode(&golden::noise(1, &[1, 3, 9, 8]))).contains("sides that 2 divides"));
    assert!(refusal(model.vae.decode(&golden::noise(1, &[1, 3, 8, 8]))).contains("4 channels"));
    assert!(refusal(model.text.rows(&[1 << 20])).contains("token 1048576"));
    let prompt = model.tokenizer.encode("<s>", Some(&Placeholder { token: "<s>".into(), vectors: 3 })).unwrap();
    assert!(refusal(model.text.forward(std::slice::from_ref(&prompt), Some(&learned))).contains("learned row 2, of 2"));
}

#[test]
fn a_sample_under_several_contexts_gives_the_bits_of_as_many_samples() {
    for name in ["avatar-tiny", "sd15-like", "sd2-like"] {
        let model = BaseModel::load(&golden::model(name), &Device::Cpu).unwrap();
        let (c, d) = (model.vae.channels(), model.text.width());
        let encoded = golden::noise(2, &[5, 77, d]);
        let contexts: Vec<Context> = (0..5).map(|i| model.unet.context(&encoded.get(i).unwrap()).unwrap()).collect();
        let own = |range: std::ops::Range<usize>| contexts[range].iter().collect::<Vec<_>>();
        // One sample for all threads to share, and enough for each to have its own.
        for (contexts, of) in
            [(vec![own(0..2)], vec![0, 0]), (vec![own(0..2), own(2..3), own(3..5)], vec![0, 0, 1, 2, 2])]
        {
            let latents = golden::noise(1, &[contexts.len(), c, 8, 12]);
            let timesteps = &[801.0, 7.5, 333.0][..contexts.len()];
            let together = model.unet.predict(&latents, timesteps, &contexts).unwrap();
            let latents: Vec<Tensor> = of.iter().map(|i| latents.narrow(0, *i, 1).unwrap()).collect();
            let times: Vec<f32> = of.iter().map(|i| timesteps[*i]).collect();
            let encoded = encoded.narrow(0, 0, of.len()).unwrap();
            let apart = model.unet.forward_at(&Tensor::cat(&latents, 0).unwrap(), &times, &encoded).unwrap();
            let bits = |tensor: &Tensor| -> Vec<u32> {
                tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
            };
            assert!(bits(&together) == bits(&apart), "{name}, {} samples", contexts.len());
        }
    }
}

#[test]
fn latents_have_a_gradient_too() {
    let Studio { model, .. } = Studio::new();
    let context = golden::noise(2, &[1, 77, 16]);
    let probe = golden::noise(3, &[1, 4, 8, 8]);
    let loss = |latents: &Tensor| {
        let output = model.unet.forward(latents, &[500], &context).unwrap();
        (output * &probe).unwrap().sum_all().unwrap()
    };
    let latents = Var::from_tensor(&golden::noise(1, &[1, 4, 8, 8])).unwrap();
    let gradient = loss(&latents).backward().unwrap().remove(&latents).unwrap();

    // Along one direction, against a central difference, extrapolated from two steps (Richardson).
    let direction = golden::noise(4, &[1, 4, 8, 8]);
    let at = |offset: f64| {
        let moved = (latents.as_detached_tensor() + (&direction * offset).unwrap()).unwrap();
        f64::from(loss(&moved).to_scalar::<f32>().unwrap())
    };
    let difference = |step: f64| (at(step) - at(-step)) / (2.0 * step);
    let slope = (4.0 * difference(5e-3) - difference(1e-2)) / 3.0;
    let along = f64::from((gradient * &direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap());
    assert!((slope - along).abs() < 0.01 * slope.abs(), "{slope} against {along}");
}
