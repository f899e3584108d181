//! Measures the frozen network on a model directory: a training step, an evaluation, a rendered batch.
//!
//! `cargo run --release -p likeness-diffusion --example measure -- DIR [train|evaluate|render|decode]…`; the peer's figures for the
//! same work come from a PyTorch script with the same batch, prompts and steps. Threads: `RAYON_NUM_THREADS`.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use candle_core::{Tensor, Var};
use likeness_diffusion::{
    BaseModel, Device, Look, NoiseKey, Placeholder, Prompt, Purpose, SamplerKind, Shot, Start, render,
};

const BATCH: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    likeness_diffusion::memory::keep_freed_memory();
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("a model directory is wanted")?;
    let mut works: Vec<String> = arguments.collect();
    if works.is_empty() {
        works = ["train", "evaluate", "render"].map(String::from).to_vec();
    }
    let began = Instant::now();
    let model = BaseModel::load(Path::new(&dir), &Device::Cpu)?;
    println!("load: {:.3} s", began.elapsed().as_secs_f64());
    let bench = Bench::new(model)?;
    for work in works {
        match work.as_str() {
            "train" => report("training step, batch 8", 20, || bench.train())?,
            "evaluate" => report("evaluation, batch 32", 3, || bench.evaluate())?,
            "render" => report("8 images, 20 DDIM steps, guidance 7.5", 3, || bench.render())?,
            "decode" => report("decoding 8 images", 3, || bench.decode())?,
            other => return Err(format!("unknown work {other:?}").into()),
        }
    }
    Ok(())
}

/// Median wall time over `times` runs, after one that warms up.
fn report(
    what: &str,
    times: usize,
    mut work: impl FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    work()?;
    let mut seconds = Vec::new();
    for _ in 0..times {
        let began = Instant::now();
        work()?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    println!("{what}: median {:.3} s, fastest {:.3} s", seconds[times / 2], seconds[0]);
    Ok(())
}

struct Bench {
    model: BaseModel,
    prompts: Vec<Prompt>,
    rows: Var,
}

impl Bench {
    fn new(model: BaseModel) -> Result<Self, Box<dyn Error>> {
        let placeholder = Placeholder { token: "<subject>".to_owned(), vectors: 1 };
        let texts = ["a photo of a <subject>", "a portrait of a <subject>", "a rendition of a <subject>"];
        let prompts: Result<Vec<Prompt>, _> =
            texts.into_iter().map(|text| model.tokenizer.encode(text, Some(&placeholder))).collect();
        let rows = Var::from_tensor(&model.text.rows(&model.tokenizer.phrase("person")[..1])?)?;
        Ok(Self { prompts: prompts?, rows, model })
    }

    fn latents(&self, seed: u64, batch: usize) -> Result<Tensor, Box<dyn Error>> {
        let side = self.model.native_size() / self.model.vae.factor();
        let key = NoiseKey { seed, purpose: Purpose::Training, step: 0, sample: 0 };
        Ok(key.normal((batch, self.model.vae.channels(), side, side), &Device::Cpu)?)
    }

    fn batch(&self, size: usize) -> Vec<Prompt> {
        self.prompts.iter().cycle().take(size).cloned().collect()
    }

    fn loss(&self, batch: usize, learned: &Tensor) -> Result<Tensor, Box<dyn Error>> {
        let (clean, noise) = (self.latents(1, batch)?, self.latents(2, batch)?);
        let timesteps: Vec<u32> = (0..batch as u32).map(|i| (i * 117) % 1000).collect();
        let context = self.model.text.forward(&self.batch(batch), Some(learned))?;
        let noisy = self.model.schedule.add_noise(&clean, &noise, &timesteps)?;
        let output = self.model.unet.forward(&noisy, &timesteps, &context)?;
        Ok((output - self.model.schedule.target(&clean, &noise, &timesteps)?)?.sqr()?.mean_all()?)
    }

    fn train(&self) -> Result<(), Box<dyn Error>> {
        let gradients = self.loss(BATCH, &self.rows)?.backward()?;
        gradients.get(&self.rows).ok_or("no gradient")?;
        Ok(())
    }

    fn evaluate(&self) -> Result<(), Box<dyn Error>> {
        self.loss(32, &self.rows.as_detached_tensor())?.to_scalar::<f32>()?;
        Ok(())
    }

    fn render(&self) -> Result<(), Box<dyn Error>> {
        let (side, negative) = (self.model.native_size(), self.model.tokenizer.encode("", None)?);
        let prompt = self.model.tokenizer.encode("a portrait of a person", None)?;
        let look = Look { sampler: SamplerKind::Ddim, steps: 20, guidance: 7.5, width: side, height: side };
        let shot = |seed| Shot { prompt: prompt.clone(), negative: negative.clone(), noise: Start::Seed(seed) };
        let shots: Vec<Shot> = (0..BATCH as u64).map(shot).collect();
        render(&self.model, None, &shots, &look, &mut |_| ControlFlow::Continue(()))?;
        Ok(())
    }

    fn decode(&self) -> Result<(), Box<dyn Error>> {
        self.model.vae.decode(&self.latents(1, BATCH)?)?;
        Ok(())
    }
}
