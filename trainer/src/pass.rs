//! Samples of many subjects through the frozen network at once.
//!
//! A subject enters the network by the rows in its prompts alone. Every sample brings a copy of its subject's rows, so that
//! the gradient of its loss is its own, and a subject's loss and gradient are means over its samples, summed in their order.
//! The kernels compute a sample to the same bits whatever stands beside it in the batch; so neither the neighbours of a
//! subject nor where the samples are cut into passes shows in its numbers.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor, Var, bail};
use likeness_diffusion::{BaseModel, Context, Prompt};
use tracing::warn;

use crate::{Lesson, draws::Sample, lesson::Batch};

/// Latent positions of one pass: 16 samples of 16×16 latents, 1 of 64×64. Memory grows with them. On avatar-tiny and two cores
/// the time of a sample fell up to here and rose beyond.
pub(crate) const PASS_POSITIONS: usize = 4096;

/// Samples of one subject that are to be measured under its rows.
pub(crate) struct Ask<'a> {
    pub(crate) lesson: &'a Lesson,
    /// Row-major `(vectors, width)`.
    pub(crate) rows: Vec<f32>,
    /// What the samples are of.
    pub(crate) batch: Batch,
    pub(crate) samples: Vec<Sample>,
    /// Samples of the whole batch, which means are over; more than there are here where other ranks have the rest.
    pub(crate) whole: usize,
}

impl Ask<'_> {
    /// Some of the samples, as a part of the same means.
    pub(crate) fn part(&self, samples: Range<usize>) -> Self {
        Self { rows: self.rows.clone(), samples: self.samples[samples].to_vec(), ..*self }
    }
}

/// Mean loss of each subject's samples, and its gradient with respect to the subject's rows; of a part of a batch, its part of
/// the means. A subject that cannot be measured fails alone. At most `positions` latent positions go into one pass.
pub(crate) fn gradients(asked: &[Ask<'_>], positions: usize) -> Vec<Result<(f32, Vec<f32>)>> {
    each(asked, |asked| {
        let mut sums: Vec<_> = asked.iter().map(|ask| (0.0, vec![0.0; ask.rows.len()])).collect();
        for places in cut(asked, positions) {
            let pass = Pass { asked, places: &places };
            let part = |part: Range<usize>| Pass { asked, places: &places[part] }.gradients();
            let parts = pass.model()?.unet.side_by_side(places.len(), part)?;
            for (place, (loss, gradient)) in places.iter().zip(parts.into_iter().flatten()) {
                let (losses, sum) = &mut sums[place.ask];
                *losses += f64::from(loss);
                sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
            }
        }
        let mean = |(ask, (losses, mut gradient)): (&Ask<'_>, (f64, Vec<f32>))| {
            gradient.iter_mut().for_each(|g| *g /= ask.whole as f32);
            (mean(losses, ask), gradient)
        };
        Ok(asked.iter().zip(sums).map(mean).collect())
    })
}

/// Mean loss of each subject's samples, as [`gradients`] but without the way back.
pub(crate) fn losses(asked: &[Ask<'_>], positions: usize) -> Vec<Result<f32>> {
    each(asked, |asked| {
        let mut sums = vec![0.0; asked.len()];
        for places in cut(asked, positions) {
            let pass = Pass { asked, places: &places };
            for (place, loss) in places.iter().zip(pass.losses()?) {
                sums[place.ask] += f64::from(loss);
            }
        }
        Ok(asked.iter().zip(sums).map(|(ask, sum)| mean(sum, ask)).collect())
    })
}

/// All subjects together; if that fails, each for itself, so that the failure finds its owner.
fn each<T>(asked: &[Ask<'_>], measure: impl Fn(&[Ask<'_>]) -> Result<Vec<T>>) -> Vec<Result<T>> {
    let alone = |ask| measure(std::slice::from_ref(ask)).map(|mut one| one.swap_remove(0)); // one subject, one answer
    match measure(asked) {
        Ok(all) => all.into_iter().map(Ok).collect(),
        Err(error) if asked.len() == 1 => vec![Err(error)],
        Err(error) => {
            warn!(%error, subjects = asked.len(), "shared pass failed, its subjects are measured one by one");
            asked.iter().map(alone).collect()
        }
    }
}

fn mean(sum: f64, ask: &Ask<'_>) -> f32 {
    (sum / ask.whole as f64) as f32
}

/// A sample, by the numbers of its subject and of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    ask: usize,
    sample: usize,
}

/// Every sample in one pass: latents of one size in each, each subject's samples in their order, at most `positions` latent
/// positions unless a single sample has more.
fn cut(asked: &[Ask<'_>], positions: usize) -> Vec<Vec<Place>> {
    let mut sizes: BTreeMap<(usize, usize), Vec<Place>> = BTreeMap::new();
    for (ask, Ask { lesson, samples, .. }) in asked.iter().enumerate() {
        sizes.entry(lesson.size()).or_default().extend((0..samples.len()).map(|sample| Place { ask, sample }));
    }
    let passes = |((height, width), places): (&(usize, usize), &Vec<Place>)| -> Vec<Vec<Place>> {
        places.chunks((positions / (height * width)).max(1)).map(<[Place]>::to_vec).collect()
    };
    sizes.iter().flat_map(passes).collect()
}

/// A pass, or a thread's part of one.
struct Pass<'a> {
    asked: &'a [Ask<'a>],
    /// Not empty.
    places: &'a [Place],
}

impl<'a> Pass<'a> {
    /// Of each sample: its loss and the loss's gradient with respect to its copy of the rows.
    fn gradients(&self) -> Result<Vec<(f32, Vec<f32>)>> {
        let model = self.model()?;
        let mut spliced = Spliced::new(model);
        self.samples().for_each(|(ask, sample)| spliced.push(ask.lesson.prompt(sample), &ask.rows));
        let rows = Var::from_tensor(&spliced.rows(model)?)?;
        let context = model.text.forward(&spliced.prompts, Some(&rows))?;
        let losses = self.loss(model, |noisy, timesteps| model.unet.forward_at(noisy, timesteps, &context))?;
        let gradients = losses.sum_all()?.backward()?; // each sample's own: their sum has slope 1 in every one
        let Some(gradient) = gradients.get(&rows) else { bail!("the loss does not depend on the rows") };
        let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
        let (mut rest, mut own) = (&gradient[..], Vec::new());
        for ((ask, _), loss) in self.samples().zip(losses.to_vec1()?) {
            let (copy, others) = rest.split_at(ask.rows.len());
            own.push((loss, copy.to_vec()));
            rest = others;
        }
        Ok(own)
    }

    /// Of each sample: its loss. Every distinct prompt of a subject is encoded once, and once made what the UNet looks at.
    fn losses(&self) -> Result<Vec<f32>> {
        let model = self.model()?;
        let (mut spliced, mut distinct, mut picks) = (Spliced::new(model), HashMap::new(), Vec::new());
        for (place, (ask, sample)) in self.places.iter().zip(self.samples()) {
            let prompt = ask.lesson.prompt(sample);
            let known = distinct.len();
            let pick = *distinct.entry((place.ask, prompt)).or_insert(known);
            if pick == known {
                spliced.push(prompt, &ask.rows);
            }
            picks.push(pick);
        }
        let encoded = model.text.forward(&spliced.prompts, Some(&spliced.rows(model)?))?;
        let contexts = (0..distinct.len()).map(|prompt| model.unet.context(&encoded.get(prompt)?));
        let contexts = contexts.collect::<Result<Vec<Context>>>()?;
        let each: Vec<Vec<&Context>> = picks.iter().map(|pick| vec![&contexts[*pick]]).collect();
        self.loss(model, |noisy, timesteps| model.unet.predict(noisy, timesteps, &each))?.to_vec1()
    }

    /// Of each sample: the mean squared error `(b)` of what the UNet is to `predict` for its noised photo.
    fn loss(&self, model: &BaseModel, predict: impl FnOnce(&Tensor, &[f32]) -> Result<Tensor>) -> Result<Tensor> {
        let pictures = self.samples().map(|(ask, sample)| ask.lesson.picture(sample));
        let (clean, noise): (Vec<_>, Vec<_>) = pictures.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let (clean, noise) = (Tensor::stack(&clean, 0)?, Tensor::stack(&noise, 0)?); // (b, c, h, w)
        let timesteps: Vec<u32> = self.samples().map(|(_, sample)| sample.timestep).collect();
        let noisy = model.schedule.add_noise(&clean, &noise, &timesteps)?;
        let predicted = predict(&noisy, &timesteps.iter().map(|t| *t as f32).collect::<Vec<_>>())?;
        let target = model.schedule.target(&clean, &noise, &timesteps)?;
        (predicted - target)?.sqr()?.flatten_from(1)?.mean(1)
    }

    fn samples(&self) -> impl Iterator<Item = (&'a Ask<'a>, &'a Sample)> {
        let asked = self.asked;
        self.places.iter().map(move |place| (&asked[place.ask], &asked[place.ask].samples[place.sample]))
    }

    fn model(&self) -> Result<&'a Arc<BaseModel>> {
        let first = self.asked[self.places[0].ask].lesson.model();
        match self.samples().all(|(ask, _)| Arc::ptr_eq(ask.lesson.model(), first)) {
            true => Ok(first),
            false => bail!("subjects of different base models cannot share a pass"),
        }
    }
}

/// Prompts, each with rows of its own for its slots.
struct Spliced {
    prompts: Vec<Prompt>,
    rows: Vec<f32>,
    width: usize,
}

impl Spliced {
    fn new(model: &BaseModel) -> Self {
        Self { prompts: Vec::new(), rows: Vec::new(), width: model.text.width() }
    }

    fn push(&mut self, prompt: &Prompt, rows: &[f32]) {
        let first = self.rows.len() / self.width;
        let mut prompt = prompt.clone();
        prompt.slots.iter_mut().for_each(|slot| slot.vector += first);
        self.prompts.push(prompt);
        self.rows.extend_from_slice(rows);
    }

    /// `(rows of all prompts, width)`.
    fn rows(&self, model: &BaseModel) -> Result<Tensor> {
        Tensor::from_slice(&self.rows, (self.rows.len() / self.width, self.width), &model.device)
    }
}
