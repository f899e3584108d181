//! The frozen denoiser.

pub(crate) mod blocks;
mod checkpoint;
mod context;
mod transformer;

use std::cell::Cell;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

use self::blocks::{Downsample, Resnet, Upsample};
use self::checkpoint::{Block, Checkpoint};
use self::context::Seen;
use self::transformer::{Shape, Transformer};
use crate::cache::ModelCache;
use crate::config::{DownBlockType, UnetConfig, UpBlockType};
use crate::error::LoadError;
use crate::model::Computing;
use crate::ops::activation::Activation;
use crate::ops::composed::Place;
use crate::ops::conv::{Conv3x3, Stride};
use crate::ops::glue::{Move, join};
use crate::ops::group_norm::{GroupNorm, Then};
use crate::ops::linear::Linear;
use crate::ops::tape::{Value, frozen, frozen2};
use crate::weights::{Groups, SMALL, Scope, WeightFile, weight_file};

pub use self::context::Context;

/// The stem of the weight files that diffusers writes.
pub(crate) const STEM: &str = "diffusion_pytorch_model";

/// The frozen UNet (diffusers' `UNet2DConditionModel`).
#[derive(Debug)]
pub struct Unet {
    config: UnetConfig,
    time1: Linear,
    time2: Linear,
    conv_in: Conv3x3,
    down: Vec<Down>,
    middle: Arc<Middle>,
    up: Vec<Up>,
    norm_out: GroupNorm,
    conv_out: Conv3x3,
    checkpointing: bool,
    /// Values of its weights.
    weights: usize,
    place: Place,
}

/// Resnets, each with its transformer if the block has any. Shared, so that a gradient checkpoint can hold them.
type Stage = Vec<Arc<(Resnet, Option<Transformer>)>>;

#[derive(Debug)]
struct Down {
    stage: Stage,
    then: Option<Downsample>,
}

#[derive(Debug)]
struct Middle {
    first: Resnet,
    transformer: Transformer,
    last: Resnet,
}

#[derive(Debug)]
struct Up {
    stage: Stage,
    then: Option<Upsample>,
}

impl Unet {
    /// Reads `config.json` and `diffusion_pytorch_model.safetensors` (or its `.fp16` variant) of `folder`.
    ///
    /// # Errors
    /// Names the file, and the key or tensor in it, that is missing, surplus or wrong.
    pub fn load(
        folder: &Path,
        computing: Computing,
        device: &Device,
        cache: Option<&ModelCache>,
    ) -> std::result::Result<Self, LoadError> {
        let config = UnetConfig::load(&folder.join("config.json"))?;
        let place = computing.place(device);
        let file = WeightFile::open(folder.join(weight_file(folder, STEM)?), computing, &place, cache)?;
        let builder = Builder { config: &config, root: file.root(), crossings: Cell::new(0) };
        let (first, time) = (config.block_out_channels[0], builder.time());
        let embedding = builder.root.pp("time_embedding");
        let time1 = embedding.pp("linear_1").linear(first, time)?;
        let time2 = embedding.pp("linear_2").linear(time, time)?;
        let conv_in = builder.root.pp("conv_in").conv(config.in_channels, first, Stride::One)?;
        let (down, middle, up) = (builder.down()?, builder.middle()?, builder.up()?);
        let norm_out = builder.root.pp("conv_norm_out").group_norm(first, builder.groups(), Then::Silu)?;
        let conv_out = builder.root.pp("conv_out").conv(first, config.out_channels, Stride::One)?;
        let weights = file.values();
        file.finish(&[])?;
        let (middle, checkpointing) = (Arc::new(middle), computing.checkpointing);
        Ok(Self { config, time1, time2, conv_in, down, middle, up, norm_out, conv_out, checkpointing, weights, place })
    }

    /// The files of `folder` that [`Self::load`] reads.
    pub(crate) fn files(folder: &Path) -> std::result::Result<Vec<String>, LoadError> {
        Ok(vec!["config.json".into(), weight_file(folder, STEM)?])
    }

    /// Its configuration.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// What it computes in.
    pub fn precision(&self) -> DType {
        self.place.dtype
    }

    /// Whether the way back keeps only the inputs of the blocks; see [`Computing::checkpointing`].
    pub fn checkpointing(&self) -> bool {
        self.checkpointing
    }

    /// From now on the way back keeps only the inputs of the blocks, or everything. No bit of a result depends on it.
    pub fn set_checkpointing(&mut self, on: bool) {
        self.checkpointing = on;
    }

    /// Predicts noise or velocity `(b, c, h, w)`, f32, from noisy latents of the same shape, one timestep a sample and the
    /// context `(b, 77, d)`; differentiable with respect to the context.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, latents: &Tensor, timesteps: &[u32], context: &Tensor) -> Result<Tensor> {
        let timesteps: Vec<f32> = timesteps.iter().map(|t| *t as f32).collect();
        self.forward_at(latents, &timesteps, context)
    }

    /// As [`Self::forward`], at timesteps that may lie between the trained ones, as some samplers have them.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward_at(&self, latents: &Tensor, timesteps: &[f32], context: &Tensor) -> Result<Tensor> {
        let (b, c, _, _) = latents.dims4()?;
        let (contexts, _, d) = context.dims3()?;
        if b == 0 || timesteps.len() != b || contexts != b {
            bail!("{b} latents, {} timesteps and {contexts} contexts: as many of each are wanted", timesteps.len());
        }
        if c != self.config.in_channels || d != self.config.cross_attention_dim {
            let (channels, width) = (self.config.in_channels, self.config.cross_attention_dim);
            bail!("latents of {c} channels and a context of width {d}: the UNet has {channels} and {width}");
        }
        let (latents, context) = (latents.to_dtype(self.place.dtype)?, context.to_dtype(self.place.dtype)?);
        let predicted =
            frozen2(&latents, &context, |latents, context| self.pass(latents, timesteps, &Seen::Encoded(context)));
        predicted?.to_dtype(DType::F32)
    }

    /// Does `work` on all of `samples`, each thread on some of them: threads that go through a network on their own seldom wait for
    /// one another. With weights that are too many for that, all at once. The results are in the order of the samples.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn side_by_side<T: Send>(
        &self,
        samples: usize,
        work: impl Fn(Range<usize>) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let parts = self.threads().min(samples).max(1);
        let cut = |part: usize| part * samples / parts;
        let part = |part: usize| work(cut(part)..cut(part + 1));
        rayon::scope(|_| (0..parts).into_par_iter().map(part).collect())
    }

    /// Threads that may have samples of their own, since weights that stay in the cache may be read often.
    fn threads(&self) -> usize {
        if self.weights <= SMALL && self.place.has_kernels() { rayon::current_num_threads() } else { 1 }
    }

    /// What it looks at, of a context `(77, d)`, for [`Self::predict`].
    ///
    /// # Errors
    /// A context of another width.
    pub fn context(&self, encoded: &Tensor) -> Result<Context> {
        let encoded = encoded.detach().unsqueeze(0)?.to_dtype(self.place.dtype)?;
        let transformers = self.down.iter().flat_map(|down| &down.stage).filter_map(|stage| stage.1.as_ref());
        let transformers = transformers.chain([&self.middle.transformer]);
        let up = self.up.iter().flat_map(|up| &up.stage).filter_map(|stage| stage.1.as_ref());
        let crossings = transformers.chain(up).flat_map(Transformer::crossings);
        Ok(Context(crossings.map(|kv| frozen(&encoded, |encoded| kv.forward(encoded))).collect::<Result<_>>()?))
    }

    /// As [`Self::forward_at`], each sample under one or several contexts: `(n, c, h, w)` for n contexts in all, those of the first sample
    /// first, to the same bits. No graph is kept.
    ///
    /// # Errors
    /// Shapes that do not fit, a sample without a context, a context of another UNet.
    pub fn predict(&self, latents: &Tensor, timesteps: &[f32], contexts: &[Vec<&Context>]) -> Result<Tensor> {
        let b = latents.dim(0)?;
        if b == 0 || timesteps.len() != b || contexts.len() != b || contexts.iter().any(Vec::is_empty) {
            let (times, owners) = (timesteps.len(), contexts.iter().filter(|own| !own.is_empty()).count());
            bail!("{b} latents, {times} timesteps and contexts of {owners}: as many of each are wanted");
        }
        if b < self.threads() && contexts.iter().any(|own| own.len() > 1) {
            // To keep all threads at work is worth more than what contexts share.
            let samples = || contexts.iter().enumerate().flat_map(|(sample, own)| own.iter().map(move |_| sample));
            let latents: Vec<Tensor> = samples().map(|sample| latents.narrow(0, sample, 1)).collect::<Result<_>>()?;
            let timesteps: Vec<f32> = samples().map(|sample| timesteps[sample]).collect();
            let contexts: Vec<Vec<&Context>> = contexts.iter().flatten().map(|context| vec![*context]).collect();
            return self.predict(&Tensor::cat(&latents, 0)?, &timesteps, &contexts);
        }
        let latents = latents.detach().to_dtype(self.place.dtype)?;
        let predicted = self.side_by_side(b, |samples| {
            let own = latents.narrow(0, samples.start, samples.len())?;
            let seen = Seen::contexts(&contexts[samples.clone()])?;
            frozen(&own, |latents| self.pass(latents, &timesteps[samples.clone()], &seen))
        });
        Tensor::cat(&predicted?, 0)?.to_dtype(DType::F32)
    }

    fn pass(&self, latents: &Value, timesteps: &[f32], seen: &Seen<'_>) -> Result<Value> {
        let time = &self.embed(timesteps)?;
        let mut x = self.conv_in.forward(&Move::ChannelsLast.forward(latents)?)?;

        let mut skips = vec![x.clone()];
        for block in &self.down {
            for stage in &block.stage {
                x = self.part(stage, &x, time, seen)?;
                skips.push(x.clone());
            }
            if let Some(downsample) = &block.then {
                x = downsample.forward(&x)?;
                skips.push(x.clone());
            }
        }

        x = self.part(&self.middle, &x, time, seen)?;

        for block in &self.up {
            for stage in &block.stage {
                let skip = seen.beside(&x, &pop(&mut skips)?)?;
                x = self.part(stage, &join(&x, &skip)?, time, seen)?;
            }
            if let (Some(upsample), Some(next)) = (&block.then, skips.last()) {
                let (_, height, width, _) = next.dims4()?;
                x = upsample.forward(&x, (height, width))?;
            }
        }
        Move::ChannelsFirst.forward(&self.conv_out.forward(&self.norm_out.forward(&x)?)?)
    }

    /// A part of the network; with checkpointing, only what it reads is kept for the way back.
    fn part(&self, block: &Arc<impl Block + 'static>, x: &Value, time: &Value, seen: &Seen<'_>) -> Result<Value> {
        let time = seen.beside(x, time)?;
        match seen {
            Seen::Encoded(context) if self.checkpointing => {
                x.checkpointed(context, Checkpoint { block: Arc::clone(block), time })
            }
            Seen::Encoded(_) => block.forward(x, &time, seen),
            Seen::Contexts { .. } => {
                let x = block.forward(x, &time, seen);
                if self.checkpointing {
                    block.release();
                }
                x
            }
        }
    }

    /// SiLU of the timesteps' embedding `(b, width)`: what every resnet projects.
    fn embed(&self, timesteps: &[f32]) -> Result<Value> {
        let half = self.config.block_out_channels[0] / 2;
        let last = half as f32 - self.config.freq_shift as f32;
        let angles = |t: f32| (0..half).map(move |i| t * (-(10_000f32.ln()) * i as f32 / last).exp());
        let mut waves = Vec::with_capacity(timesteps.len() * 2 * half);
        for t in timesteps {
            let (sines, cosines) = (angles(*t).map(f32::sin), angles(*t).map(f32::cos));
            match self.config.flip_sin_to_cos {
                true => waves.extend(cosines.chain(sines)),
                false => waves.extend(sines.chain(cosines)),
            }
        }
        let waves = Value::constant(&self.place.tensor(waves, &[timesteps.len(), 2 * half])?)?;
        let inner = Activation::Silu.forward(&self.time1.forward(&waves)?)?;
        Activation::Silu.forward(&self.time2.forward(&inner)?)
    }
}

fn pop(skips: &mut Vec<Value>) -> Result<Value> {
    match skips.pop() {
        Some(skip) => Ok(skip),
        None => bail!("the UNet's way up has more resnets than its way down has outputs"),
    }
}

/// Lays out the blocks as diffusers does.
struct Builder<'a> {
    config: &'a UnetConfig,
    root: Scope<'a>,
    /// Cross-attentions so far.
    crossings: Cell<usize>,
}

impl Builder<'_> {
    /// Width of the timestep's embedding.
    fn time(&self) -> usize {
        4 * self.config.block_out_channels[0]
    }

    fn groups(&self) -> Groups {
        Groups { count: self.config.norm_num_groups, epsilon: self.config.norm_eps }
    }

    fn resnet(&self, scope: &Scope<'_>, inputs: usize, outputs: usize) -> std::result::Result<Resnet, LoadError> {
        Resnet::load(scope, inputs, outputs, Some(self.time()), self.groups())
    }

    fn transformer(&self, scope: &Scope<'_>, block: usize) -> std::result::Result<Transformer, LoadError> {
        let config = self.config;
        let last = config.block_out_channels.len() - 1;
        let shape = Shape {
            width: config.block_out_channels[block.min(last)],
            context: config.cross_attention_dim,
            heads: config.heads(block),
            layers: config.transformer_layers_per_block.of(block).unwrap_or(1),
            groups: config.norm_num_groups,
            linear: config.use_linear_projection,
            // The middle block has a key of its own, and only its default is supported.
            only_cross: block <= last && config.only_cross_attention.of(block).unwrap_or(false),
            crossings: self.crossings.get(),
        };
        self.crossings.set(shape.crossings_after());
        Transformer::load(scope, shape)
    }

    /// Resnets with `inputs` channels each, all to `outputs`.
    fn stage(
        &self,
        scope: &Scope<'_>,
        block: usize,
        inputs: &[usize],
        cross: bool,
    ) -> std::result::Result<Stage, LoadError> {
        let outputs = self.config.block_out_channels[block];
        let (resnets, transformers) = (scope.pp("resnets"), scope.pp("attentions"));
        let one = |(i, inputs): (usize, &usize)| {
            let transformer = cross.then(|| self.transformer(&transformers.pp(i), block)).transpose()?;
            Ok(Arc::new((self.resnet(&resnets.pp(i), *inputs, outputs)?, transformer)))
        };
        inputs.iter().enumerate().map(one).collect()
    }

    fn down(&self) -> std::result::Result<Vec<Down>, LoadError> {
        let channels = &self.config.block_out_channels;
        let stride = if self.config.downsample_padding == 0 { Stride::TwoPadEnd } else { Stride::Two };
        let one = |block: usize| {
            let scope = self.root.pp("down_blocks").pp(block);
            let mut inputs = vec![channels[block]; self.config.layers_per_block];
            if let Some(first) = inputs.first_mut() {
                *first = channels[block.saturating_sub(1)];
            }
            let cross = self.config.down_block_types[block] == DownBlockType::CrossAttnDownBlock2D;
            let then = (block + 1 < channels.len())
                .then(|| Downsample::load(&scope.pp("downsamplers.0"), channels[block], stride));
            Ok(Down { stage: self.stage(&scope, block, &inputs, cross)?, then: then.transpose()? })
        };
        (0..channels.len()).map(one).collect()
    }

    fn middle(&self) -> std::result::Result<Middle, LoadError> {
        let (scope, blocks) = (self.root.pp("mid_block"), self.config.block_out_channels.len());
        let width = self.config.block_out_channels[blocks - 1];
        Ok(Middle {
            first: self.resnet(&scope.pp("resnets.0"), width, width)?,
            transformer: self.transformer(&scope.pp("attentions.0"), blocks)?,
            last: self.resnet(&scope.pp("resnets.1"), width, width)?,
        })
    }

    /// The way up mirrors the way down: block `i` here has the channels of block `last - i` there, and each resnet
    /// reads what came from below next to one output of the way down.
    fn up(&self) -> std::result::Result<Vec<Up>, LoadError> {
        let channels = &self.config.block_out_channels;
        let last = channels.len() - 1;
        let one = |i: usize| {
            let (block, scope) = (last - i, self.root.pp("up_blocks").pp(i));
            let below = channels[(block + 1).min(last)];
            let beside = channels[block.saturating_sub(1)];
            let layers = self.config.layers_per_block;
            let input = |layer: usize| {
                let skip = if layer == layers { beside } else { channels[block] };
                skip + if layer == 0 { below } else { channels[block] }
            };
            let inputs: Vec<usize> = (0..=layers).map(input).collect();
            let cross = self.config.up_block_types[i] == UpBlockType::CrossAttnUpBlock2D;
            let then = (i < last).then(|| Upsample::load(&scope.pp("upsamplers.0"), channels[block]));
            Ok(Up { stage: self.stage(&scope, block, &inputs, cross)?, then: then.transpose()? })
        };
        (0..=last).map(one).collect()
    }
}
