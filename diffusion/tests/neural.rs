//! The frozen network against PyTorch: text encoder, UNet, VAE, gradients and a short textual inversion, for three models.
//! The goldens are made by tests/golden/make.py (pinned diffusers and transformers, f32 on the CPU); tests/golden/neural.py
//! says what each tensor is.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

#[path = "../src/golden.rs"]
#[allow(dead_code, unreachable_pub)]
mod golden;

use std::collections::HashMap;

use candle_core::{D, Tensor, Var};
use golden::{max_abs_diff, noise};
use likeness_diffusion::{BaseModel, Computing, DType, Device, Prompt, Slot};

const MODELS: [&str; 3] = ["avatar-tiny", "sd15-like", "sd2-like"];
/// Largest absolute difference of a forward pass.
const FORWARD: f32 = 1e-4;

struct Case {
    name: &'static str,
    model: BaseModel,
    golden: HashMap<String, Tensor>,
    /// Channels, height and width of the latents.
    latents: [usize; 3],
}

/// Of two tensors taken as vectors.
struct Gap {
    /// Norm of the difference over the golden's norm.
    relative: f64,
    cosine: f64,
}

impl Case {
    fn load(name: &'static str, precision: DType) -> Self {
        let computing = Computing { precision, ..Computing::default() };
        let model = BaseModel::load_with(&golden::model(name), computing, &Device::Cpu).unwrap();
        let side = model.unet.config().sample_size.unwrap();
        let latents = [model.vae.channels(), side, side];
        Self { name, model, golden: golden::tensors(name), latents }
    }

    fn each(test: impl Fn(&Self)) {
        MODELS.into_iter().for_each(|name| test(&Self::load(name, DType::F32)));
    }

    /// By the kernels, and in f64 by compositions of candle's ops, which is the way that GPUs take.
    fn both(test: impl Fn(&Self)) {
        Self::each(&test);
        MODELS.into_iter().for_each(|name| test(&Self::load(name, DType::F64)));
    }

    fn noise(&self, seed: u64, batch: usize) -> Tensor {
        let [c, h, w] = self.latents;
        noise(seed, &[batch, c, h, w])
    }

    /// The prompts behind a tensor of ids; ids past the vocabulary are slots for learned rows.
    fn prompts(&self, ids: &str) -> Vec<Prompt> {
        let vocabulary = self.model.text.vocabulary();
        let prompt = |row: &Vec<i64>| {
            let vector = |id: &i64| usize::try_from(*id).unwrap().checked_sub(vocabulary);
            let slots =
                row.iter().enumerate().filter_map(|(position, id)| Some(Slot { position, vector: vector(id)? }));
            let ids = row.iter().map(|id| if vector(id).is_some() { 0 } else { u32::try_from(*id).unwrap() });
            Prompt { ids: ids.collect(), slots: slots.collect(), cut: None }
        };
        self.golden[ids].to_vec2::<i64>().unwrap().iter().map(prompt).collect()
    }

    fn near(&self, what: &str, got: &Tensor) {
        let gap = max_abs_diff(got, &self.golden[what]);
        assert!(gap < FORWARD, "{}: {what} is {gap} away", self.name);
    }

    /// How far two gradients are apart.
    fn gradient_gap(&self, what: &str, got: &Tensor) -> Gap {
        let flat = |t: &Tensor| -> Vec<f64> {
            t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
        };
        let (got, want) = (flat(got), flat(&self.golden[what]));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let gap: Vec<f64> = got.iter().zip(&want).map(|(a, b)| a - b).collect();
        assert!(got.len() == want.len() && dot(&want, &want) > 0.0);
        Gap {
            relative: (dot(&gap, &gap) / dot(&want, &want)).sqrt(),
            cosine: dot(&got, &want) / (dot(&got, &got) * dot(&want, &want)).sqrt(),
        }
    }

    /// Within 1e-3 relative and of cosine above 0.9999.
    fn same_gradient(&self, what: &str, got: &Tensor) {
        let Gap { relative, cosine } = self.gradient_gap(what, got);
        assert!(relative < 1e-3, "{}: {what} is {relative} away, relative to its norm", self.name);
        assert!(cosine > 0.9999, "{}: {what} has cosine {cosine}", self.name);
    }

    /// Mean squared error of the prediction for noised latents.
    fn loss(&self, clean: &Tensor, eps: &Tensor, timesteps: &[u32], context: &Tensor) -> Tensor {
        let noisy = self.model.schedule.add_noise(clean, eps, timesteps).unwrap();
        let target = self.model.schedule.target(clean, eps, timesteps).unwrap();
        let output = self.model.unet.forward(&noisy, timesteps, context).unwrap();
        (output - target).unwrap().sqr().unwrap().mean_all().unwrap()
    }
}

/// Every `step`-th index along `dim`, from 0.
fn every(step: usize, tensor: &Tensor, dim: D) -> Tensor {
    let picks: Vec<u32> = (0..tensor.dim(dim).unwrap() as u32).step_by(step).collect();
    tensor.index_select(&Tensor::new(picks, &Device::Cpu).unwrap(), dim).unwrap()
}

fn fourth(context: &Tensor) -> Tensor {
    every(4, context, D::Minus2)
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

fn scalar(tensor: &Tensor) -> f32 {
    tensor.to_scalar().unwrap()
}

#[test]
fn the_text_encoder_gives_pytorchs_context_with_and_without_learned_rows() {
    Case::both(|case| {
        let plain = case.model.text.forward(&case.prompts("ids"), None).unwrap();
        case.near("context", &fourth(&plain));
        let learned = case.model.text.forward(&case.prompts("learned.ids"), Some(&case.golden["learned"])).unwrap();
        case.near("learned.context", &fourth(&learned));
    });
}

#[test]
fn the_penultimate_layer_is_a_setting_of_the_encoders_config() {
    for name in MODELS {
        let (source, folder) = (golden::model(name).join("text_encoder"), tempfile::tempdir().unwrap());
        let text = std::fs::read_to_string(source.join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["clip_skip"] = 1.into();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        std::fs::copy(source.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
        let encoder =
            likeness_diffusion::TextEncoder::load(folder.path(), Computing::default(), &Device::Cpu, None).unwrap();
        let case = Case::load(name, DType::F32);
        let context = encoder.forward(&case.prompts("ids"), None).unwrap();
        case.near("context.penultimate", &fourth(&context));
    }
}

#[test]
fn the_unet_predicts_what_pytorchs_does_with_a_timestep_for_each_sample() {
    Case::both(|case| {
        let d = case.model.text.width();
        let output = case.model.unet.forward(&case.noise(2, 2), &[7, 801], &noise(3, &[2, 77, d])).unwrap();
        case.near("unet", &output);
        let [c, h, w] = case.latents;
        let output = case.model.unet.forward(&noise(4, &[1, c, h, 2 * w]), &[333], &noise(5, &[1, 77, d])).unwrap();
        case.near("unet.wide", &every(2, &every(2, &output, D::Minus1), D::Minus2));
    });
}

#[test]
fn the_vae_encodes_and_decodes_as_pytorchs() {
    Case::both(|case| {
        let [_, h, w] = case.latents;
        let factor = case.model.vae.factor();
        let repeat = |n: usize| (0..n * factor).map(|i| (i / factor) as u32).collect::<Vec<_>>();
        let index = |n| Tensor::new(repeat(n), &Device::Cpu).unwrap();
        let coarse = (noise(6, &[1, 3, h, w]) / 3f64.sqrt()).unwrap();
        let pixels = coarse.index_select(&index(h), 2).unwrap().index_select(&index(w), 3).unwrap();
        case.near("vae.encoded", &case.model.vae.encode(&pixels).unwrap());
        let decoded = case.model.vae.decode(&case.noise(7, 1)).unwrap();
        case.near("vae.decoded", &every(5, &every(5, &decoded, D::Minus1), D::Minus2));
    });
}

#[test]
fn the_vae_decodes_in_tiles_as_diffusers() {
    Case::each(|case| {
        let [c, h, w] = case.latents;
        let latents = noise(10, &[1, c, h + 5, 2 * w + 3]);
        let tiled = case.model.vae.decode_tiled(&latents, h).unwrap();
        case.near("vae.tiled", &every(5, &every(5, &tiled, D::Minus1), D::Minus2));

        let pair = Tensor::cat(&[&latents, &(&latents * 0.5).unwrap()], 0).unwrap();
        let first = case.model.vae.decode_tiled(&pair, h).unwrap().narrow(0, 0, 1).unwrap();
        assert!(bits(&first) == bits(&tiled), "{}: a picture's tiles are its own", case.name);
        let whole = case.model.vae.decode_tiled(&latents, 4 * h).unwrap();
        assert!(bits(&whole) == bits(&case.model.vae.decode(&latents).unwrap()), "{}: it fits into one", case.name);
    });
}

#[test]
fn the_gradients_with_respect_to_learned_rows_and_context_are_pytorchs() {
    Case::both(|case| {
        let (clean, eps, timesteps) = (case.noise(8, 2), case.noise(9, 2), [150, 720]);
        let learned = Var::from_tensor(&case.golden["learned"]).unwrap();
        let context = case.model.text.forward(&case.prompts("learned.ids"), Some(&learned)).unwrap();
        let loss = case.loss(&clean, &eps, &timesteps, &context);
        assert!((scalar(&loss) - scalar(&case.golden["loss"])).abs() < FORWARD);
        case.same_gradient("grad.learned", &loss.backward().unwrap().remove(&learned).unwrap());

        let context = Var::from_tensor(&context.detach()).unwrap();
        let loss = case.loss(&clean, &eps, &timesteps, &context);
        let gradient = loss.backward().unwrap().remove(&context).unwrap();
        case.same_gradient("grad.context", &fourth(&gradient));
    });
}

#[test]
fn in_halves_losses_and_gradients_are_near_pytorchs_and_stay_f32_outside_the_network() {
    for name in MODELS {
        let case = Case::load(name, DType::F16); // candle multiplies bf16 on GPUs alone
        let (clean, eps, timesteps) = (case.noise(8, 2), case.noise(9, 2), [150, 720]);
        let learned = Var::from_tensor(&case.golden["learned"]).unwrap();
        let context = case.model.text.forward(&case.prompts("learned.ids"), Some(&learned)).unwrap();
        let loss = case.loss(&clean, &eps, &timesteps, &context);
        assert_eq!((context.dtype(), loss.dtype()), (DType::F32, DType::F32));
        let want = scalar(&case.golden["loss"]);
        assert!((scalar(&loss) - want).abs() < 0.02 * want, "{name}: the loss is {}, not {want}", scalar(&loss));
        let gradient = loss.backward().unwrap().remove(&learned).unwrap();
        assert_eq!(gradient.dtype(), DType::F32);
        let cosine = case.gradient_gap("grad.learned", &gradient).cosine;
        assert!(cosine > 0.99, "{name}: the gradient has cosine {cosine}");
    }
}

#[test]
fn gradient_checkpointing_changes_no_bit() {
    Case::each(|case| {
        let computing = Computing { checkpointing: true, ..Computing::default() };
        let model = BaseModel::load_with(&golden::model(case.name), computing, &Device::Cpu).unwrap();
        let (latents, timesteps) = (case.noise(8, 2), [150, 720]);
        let context = case.model.text.forward(&case.prompts("ids"), None).unwrap().narrow(0, 0, 1).unwrap();
        let context = Var::from_tensor(&Tensor::cat(&[&context, &context], 0).unwrap()).unwrap();
        let gradient = |model: &BaseModel| {
            let out = model.unet.forward(&latents, &timesteps, &context).unwrap();
            let gradient = out.sqr().unwrap().mean_all().unwrap().backward().unwrap().remove(&context).unwrap();
            gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert!(gradient(&model) == gradient(&case.model), "{}", case.name);
    });
}

/// PyTorch's AdamW: lr 0.01, betas (0.9, 0.999), ε 1e-8, weight decay 0.01.
struct AdamW {
    first: Tensor,
    second: Tensor,
}

impl AdamW {
    fn step(&mut self, rows: &Var, gradient: &Tensor, step: i32) -> candle_core::Result<()> {
        self.first = ((&self.first * 0.9)? + (gradient * 0.1)?)?;
        self.second = ((&self.second * 0.999)? + (gradient.sqr()? * 0.001)?)?;
        let deviation = ((self.second.sqrt()? / (1.0 - 0.999f64.powi(step)).sqrt())? + 1e-8)?;
        let change = ((&self.first * (0.01 / (1.0 - 0.9f64.powi(step))))? / deviation)?;
        rows.set(&((rows.as_tensor() * (1.0 - 0.01 * 0.01))? - change)?)
    }
}

#[test]
fn twenty_steps_of_textual_inversion_follow_pytorchs_losses() {
    #[derive(serde::Deserialize)]
    struct Run {
        prompts: Vec<String>,
        timesteps: Vec<[u32; 2]>,
    }
    #[derive(serde::Deserialize)]
    struct Facts {
        placeholder: String,
        run: Run,
    }
    let Facts { placeholder, run } = golden::json("neural");
    Case::each(|case| {
        let placeholder = likeness_diffusion::Placeholder { token: placeholder.clone(), vectors: 2 };
        let prompts: Vec<Prompt> =
            run.prompts.iter().map(|text| case.model.tokenizer.encode(text, Some(&placeholder)).unwrap()).collect();
        let rows = Var::from_tensor(&case.golden["learned"]).unwrap();
        let mut optimiser = AdamW { first: rows.zeros_like().unwrap(), second: rows.zeros_like().unwrap() };
        let losses: Vec<f32> = case.golden["run.losses"].to_vec1().unwrap();
        for (step, (want, timesteps)) in losses.iter().zip(&run.timesteps).enumerate() {
            let batch: Vec<Prompt> = (0..2).map(|i| prompts[(2 * step + i) % 3].clone()).collect();
            let context = case.model.text.forward(&batch, Some(&rows)).unwrap();
            let (clean, eps) = (case.noise(1000 + step as u64, 2), case.noise(2000 + step as u64, 2));
            let loss = case.loss(&clean, &eps, timesteps, &context);
            let gap = (scalar(&loss) - want).abs();
            assert!(gap < 1e-3, "{}: the loss of step {step} is {gap} away", case.name);
            let gradient = loss.backward().unwrap().remove(&rows).unwrap();
            optimiser.step(&rows, &gradient, step as i32 + 1).unwrap();
        }
        // AdamW divides by the gradient's own size, so a value whose gradient is next to nothing may step either way.
        let cosine = case.gradient_gap("run.learned", &rows).cosine;
        assert!(cosine > 0.999, "{}: the rows after the run have cosine {cosine}", case.name);
    });
}
