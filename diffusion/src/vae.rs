//! Between pixels and latents.

mod tiles;

use std::path::Path;

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::cache::ModelCache;
use crate::config::VaeConfig;
use crate::error::LoadError;
use crate::model::Computing;
use crate::ops::attention::Attention;
use crate::ops::composed::Place;
use crate::ops::conv::{Conv3x3, Stride};
use crate::ops::glue::Move;
use crate::ops::group_norm::{GroupNorm, Then};
use crate::ops::linear::Linear;
use crate::ops::tape::{Value, frozen};
use crate::unet::STEM;
use crate::unet::blocks::{Downsample, Resnet, Upsample};
use crate::weights::{Groups, Scope, WeightFile, weight_file};
use tiles::Tiles;

/// ε of all its group norms; diffusers has no key for it.
const EPSILON: f64 = 1e-6;

/// Side of a tile, pixels. A larger picture is decoded in tiles.
const TILE_PIXELS: usize = 512;

type Loaded<T> = std::result::Result<T, LoadError>;

/// The frozen autoencoder (diffusers' `AutoencoderKL`).
#[derive(Debug)]
pub struct Vae {
    config: VaeConfig,
    encoder: Encoder,
    quantise: Option<Linear>,
    unquantise: Option<Linear>,
    decoder: Decoder,
    dtype: DType,
}

impl Vae {
    /// Reads `config.json` and `diffusion_pytorch_model.safetensors` (or its `.fp16` variant) of `folder`.
    ///
    /// # Errors
    /// Names the file, and the key or tensor in it, that is missing, surplus or wrong.
    pub fn load(folder: &Path, computing: Computing, device: &Device, cache: Option<&ModelCache>) -> Loaded<Self> {
        let config = VaeConfig::load(&folder.join("config.json"))?;
        let dtype = if computing.precision == DType::F64 { DType::F64 } else { DType::F32 };
        let place = Place { device: device.clone(), dtype };
        let file = WeightFile::open(folder.join(weight_file(folder, STEM)?), computing, &place, cache)?;
        let (root, c) = (file.root(), config.latent_channels);
        let encoder = Encoder::load(&root.pp("encoder"), &config)?;
        let decoder = Decoder::load(&root.pp("decoder"), &config)?;
        let quantise = config.use_quant_conv.then(|| root.pp("quant_conv").pointwise(2 * c, 2 * c)).transpose()?;
        let unquantise = config.use_post_quant_conv.then(|| root.pp("post_quant_conv").pointwise(c, c)).transpose()?;
        file.finish(&[])?;
        Ok(Self { config, encoder, quantise, unquantise, decoder, dtype })
    }

    /// The files of `folder` that [`Self::load`] reads.
    pub(crate) fn files(folder: &Path) -> Loaded<Vec<String>> {
        Ok(vec!["config.json".into(), weight_file(folder, STEM)?])
    }

    /// Pixels per latent along a side.
    pub fn factor(&self) -> usize {
        1 << (self.config.block_out_channels.len() - 1)
    }

    /// Channels of the latents.
    pub fn channels(&self) -> usize {
        self.config.latent_channels
    }

    /// Latents `(b, c, h/factor, w/factor)` of pixels `(b, 3, h, w)` in [-1, 1]: posterior mean × scaling factor.
    /// Works picture by picture, so that memory does not grow with `b`.
    ///
    /// # Errors
    /// Sides that are no multiple of the factor.
    pub fn encode(&self, pixels: &Tensor) -> Result<Tensor> {
        let (_, channels, h, w) = pixels.dims4()?;
        let factor = self.factor();
        if channels != 3 || h == 0 || w == 0 || h % factor != 0 || w % factor != 0 {
            bail!("cannot encode pixels of shape {:?}: 3 channels and sides that {factor} divides", pixels.shape());
        }
        let moments = each(&pixels.to_dtype(self.dtype)?, |picture| {
            let moments = self.encoder.forward(picture)?;
            self.quantise.as_ref().map_or(Ok(moments.clone()), |layer| layer.forward(&moments))
        })?;
        moments.narrow(1, 0, self.config.latent_channels)? * self.config.scaling_factor
    }

    /// Pixels `(b, 3, h, w)`, about in [-1, 1] and not clamped, of scaled latents. Works picture by picture, and in tiles where
    /// one is larger than 512 pixels along a side, so that memory does not grow with `b` nor beyond a tile's; see
    /// [`Self::decode_tiled`].
    ///
    /// # Errors
    /// Another number of channels than the model's.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.decode_tiled(latents, TILE_PIXELS / self.factor())
    }

    /// As [`Self::decode`], in tiles of `side` latents a side: diffusers' `tiled_decode`, in which tiles overlap by a quarter and
    /// are blended linearly there. The group norms and the attention of a tile see that tile alone, so that the picture differs
    /// a little, in tone more than in detail, from one decoded whole. A picture that fits into one tile is decoded whole.
    ///
    /// # Errors
    /// As [`Self::decode`]; a side that is no multiple of 4.
    pub fn decode_tiled(&self, latents: &Tensor, side: usize) -> Result<Tensor> {
        let (_, channels, h, w) = latents.dims4()?;
        if channels != self.config.latent_channels {
            bail!("cannot decode latents of shape {:?}: {} channels", latents.shape(), self.config.latent_channels);
        }
        let latents = (latents.to_dtype(self.dtype)? / self.config.scaling_factor)?;
        let decode = |latents: &Tensor| {
            each(latents, |latents| match &self.unquantise {
                Some(layer) => self.decoder.forward(&layer.forward(latents)?),
                None => self.decoder.forward(latents),
            })
        };
        if h <= side && w <= side {
            return decode(&latents);
        }
        let tiles = Tiles::new(side, self.factor())?;
        let pictures: Result<Vec<Tensor>> =
            (0..latents.dim(0)?).map(|i| tiles.join(&latents.narrow(0, i, 1)?, decode)).collect();
        Tensor::cat(&pictures?, 0)
    }
}

/// Applies `network` to each picture of `(b, c, h, w)`, as `(1, h, w, c)`, and stacks the results as `(b, c', h', w')`.
fn each(batch: &Tensor, network: impl Fn(&Value) -> Result<Value> + Sync) -> Result<Tensor> {
    let pass = |x: &Value| Move::ChannelsFirst.forward(&network(&Move::ChannelsLast.forward(x)?)?);
    let pictures: Result<Vec<Tensor>> = (0..batch.dim(0)?).map(|i| frozen(&batch.narrow(0, i, 1)?, pass)).collect();
    Tensor::cat(&pictures?, 0)?.to_dtype(DType::F32)
}

fn resnets(scope: &Scope<'_>, count: usize, inputs: usize, outputs: usize, groups: Groups) -> Loaded<Vec<Resnet>> {
    let inputs = |i| if i == 0 { inputs } else { outputs };
    (0..count).map(|i| Resnet::load(&scope.pp("resnets").pp(i), inputs(i), outputs, None, groups)).collect()
}

fn groups(config: &VaeConfig) -> Groups {
    Groups { count: config.norm_num_groups, epsilon: EPSILON }
}

#[derive(Debug)]
struct Encoder {
    conv_in: Conv3x3,
    down: Vec<(Vec<Resnet>, Option<Downsample>)>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv3x3,
}

impl Encoder {
    fn load(scope: &Scope<'_>, config: &VaeConfig) -> Loaded<Self> {
        let (channels, groups) = (&config.block_out_channels, groups(config));
        let last = channels.len() - 1;
        let one = |block: usize| {
            let scope = scope.pp("down_blocks").pp(block);
            let (inputs, outputs) = (channels[block.saturating_sub(1)], channels[block]);
            let down = || Downsample::load(&scope.pp("downsamplers.0"), outputs, Stride::TwoPadEnd);
            let stage = resnets(&scope, config.layers_per_block, inputs, outputs, groups)?;
            Ok((stage, (block < last).then(down).transpose()?))
        };
        Ok(Self {
            conv_in: scope.pp("conv_in").conv(config.in_channels, channels[0], Stride::One)?,
            down: (0..=last).map(one).collect::<Loaded<_>>()?,
            middle: Middle::load(&scope.pp("mid_block"), channels[last], config)?,
            norm_out: scope.pp("conv_norm_out").group_norm(channels[last], groups, Then::Silu)?,
            conv_out: scope.pp("conv_out").conv(channels[last], 2 * config.latent_channels, Stride::One)?,
        })
    }

    fn forward(&self, pixels: &Value) -> Result<Value> {
        let mut x = self.conv_in.forward(pixels)?;
        for (stage, down) in &self.down {
            x = stage.iter().try_fold(x, |x, resnet| resnet.forward(&x, None))?;
            x = down.as_ref().map_or(Ok(x.clone()), |down| down.forward(&x))?;
        }
        self.conv_out.forward(&self.norm_out.forward(&self.middle.forward(&x)?)?)
    }
}

#[derive(Debug)]
struct Decoder {
    conv_in: Conv3x3,
    middle: Middle,
    up: Vec<(Vec<Resnet>, Option<Upsample>)>,
    norm_out: GroupNorm,
    conv_out: Conv3x3,
}

impl Decoder {
    fn load(scope: &Scope<'_>, config: &VaeConfig) -> Loaded<Self> {
        let (channels, groups) = (&config.block_out_channels, groups(config));
        let last = channels.len() - 1;
        let one = |i: usize| {
            let (scope, block) = (scope.pp("up_blocks").pp(i), last - i);
            let (inputs, outputs) = (channels[(block + 1).min(last)], channels[block]);
            let up = || Upsample::load(&scope.pp("upsamplers.0"), outputs);
            let stage = resnets(&scope, config.layers_per_block + 1, inputs, outputs, groups)?;
            Ok((stage, (i < last).then(up).transpose()?))
        };
        Ok(Self {
            conv_in: scope.pp("conv_in").conv(config.latent_channels, channels[last], Stride::One)?,
            middle: Middle::load(&scope.pp("mid_block"), channels[last], config)?,
            up: (0..=last).map(one).collect::<Loaded<_>>()?,
            norm_out: scope.pp("conv_norm_out").group_norm(channels[0], groups, Then::Silu)?,
            conv_out: scope.pp("conv_out").conv(channels[0], config.out_channels, Stride::One)?,
        })
    }

    fn forward(&self, latents: &Value) -> Result<Value> {
        let mut x = self.middle.forward(&self.conv_in.forward(latents)?)?;
        for (stage, up) in &self.up {
            x = stage.iter().try_fold(x, |x, resnet| resnet.forward(&x, None))?;
            let (h, w) = x.dims4().map(|(_, h, w, _)| (2 * h, 2 * w))?;
            x = up.as_ref().map_or(Ok(x.clone()), |up| up.forward(&x, (h, w)))?;
        }
        self.conv_out.forward(&self.norm_out.forward(&x)?)
    }
}

#[derive(Debug)]
struct Middle {
    first: Resnet,
    attend: Option<Attend>,
    last: Resnet,
}

impl Middle {
    fn load(scope: &Scope<'_>, width: usize, config: &VaeConfig) -> Loaded<Self> {
        let groups = groups(config);
        let attend = config.mid_block_add_attention.then(|| Attend::load(&scope.pp("attentions.0"), width, groups));
        Ok(Self {
            first: Resnet::load(&scope.pp("resnets.0"), width, width, None, groups)?,
            attend: attend.transpose()?,
            last: Resnet::load(&scope.pp("resnets.1"), width, width, None, groups)?,
        })
    }

    fn forward(&self, x: &Value) -> Result<Value> {
        let x = self.first.forward(x, None)?;
        let x = self.attend.as_ref().map_or(Ok(x.clone()), |attend| attend.forward(&x))?;
        self.last.forward(&x, None)
    }
}

/// Self-attention of one head over all pixels.
#[derive(Debug)]
struct Attend {
    norm: GroupNorm,
    qkv: Linear,
    out: Linear,
}

impl Attend {
    /// Under today's names, or under those that diffusers wrote before 0.18.
    fn load(scope: &Scope<'_>, width: usize, groups: Groups) -> Loaded<Self> {
        let (names, out) = match scope.has("query.weight") {
            true => (["query", "key", "value"], "proj_attn"),
            false => (["to_q", "to_k", "to_v"], "to_out.0"),
        };
        Ok(Self {
            norm: scope.pp("group_norm").group_norm(width, groups, Then::Nothing)?,
            qkv: scope.fused(&names, width, width, true)?,
            out: scope.pp(out).linear(width, width)?,
        })
    }

    fn forward(&self, x: &Value) -> Result<Value> {
        let (b, h, w, c) = x.dims4()?;
        let qkv = self.qkv.forward(&self.norm.forward(x)?)?.reshape((b, h * w, 3 * c))?;
        let seen = Attention { heads: 1, causal: false }.to_self(&qkv)?;
        self.out.forward_add(&seen.reshape((b, h, w, c))?, x)
    }
}
