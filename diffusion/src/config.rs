//! The components' `config.json`, key by key as transformers and diffusers write them.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::LoadError;

/// One number for all blocks, or one per block.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum PerBlock<T> {
    /// For all.
    All(T),
    /// Block by block, from the outermost inwards.
    Each(Vec<T>),
}

impl<T: Copy> PerBlock<T> {
    /// The value for `block`; the last one for blocks beyond the list, as for the middle block.
    pub(crate) fn of(&self, block: usize) -> Option<T> {
        match self {
            Self::All(value) => Some(*value),
            Self::Each(values) => values.get(block).or(values.last()).copied(),
        }
    }
}

/// `text_encoder/config.json` (transformers' `CLIPTextConfig`).
#[derive(Clone, Debug, Deserialize)]
pub struct TextConfig {
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Width d.
    pub hidden_size: usize,
    /// Width of the feed-forward's middle.
    pub intermediate_size: usize,
    /// Layers; of SD 2.x's 24 the checkpoints hold the 23 that are used.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Positions.
    pub max_position_embeddings: usize,
    /// `quick_gelu` or `gelu`.
    pub hidden_act: String,
    /// ε of the layer norms.
    #[serde(default = "small")]
    pub layer_norm_eps: f64,
    /// Last layers to leave out, as diffusers' argument of that name: 1 takes the penultimate layer. The final layer
    /// norm is applied all the same. Not part of `CLIPTextConfig`; 0 where it is absent.
    #[serde(default)]
    pub clip_skip: usize,
}

/// `unet/config.json` (diffusers' `UNet2DConditionModel`), without the keys of which one value alone is accepted.
#[derive(Clone, Debug, Deserialize)]
pub struct UnetConfig {
    /// Side of the latents it was trained on.
    #[serde(default)]
    pub sample_size: Option<usize>,
    /// Channels of the latents.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Channels of each block.
    pub block_out_channels: Vec<usize>,
    /// Blocks on the way down.
    pub down_block_types: Vec<DownBlockType>,
    /// Blocks on the way up.
    pub up_block_types: Vec<UpBlockType>,
    /// Resnets of a block on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// Transformer blocks behind each resnet.
    #[serde(default = "one_each")]
    pub transformer_layers_per_block: PerBlock<usize>,
    /// By its history the *number* of heads, unless [`Self::num_attention_heads`] is there.
    pub attention_head_dim: PerBlock<usize>,
    /// The number of heads, if it is there.
    #[serde(default)]
    pub num_attention_heads: Option<PerBlock<usize>>,
    /// Width of the context.
    pub cross_attention_dim: usize,
    /// True if also the first attention of a transformer block looks at the context.
    #[serde(default = "no_each")]
    pub only_cross_attention: PerBlock<bool>,
    /// True if the projections around the transformer blocks are linear layers, as in SD 2.x.
    #[serde(default)]
    pub use_linear_projection: bool,
    /// Groups of the group norms.
    #[serde(default = "groups")]
    pub norm_num_groups: usize,
    /// ε of the resnets' group norms.
    #[serde(default = "small")]
    pub norm_eps: f64,
    /// Cosines before sines in the timestep's embedding.
    #[serde(default = "yes")]
    pub flip_sin_to_cos: bool,
    /// Shift of the frequencies of the timestep's embedding.
    #[serde(default)]
    pub freq_shift: f64,
    /// 1: zeros all around before a downsampling; 0: right and below only.
    #[serde(default = "one")]
    pub downsample_padding: usize,
}

/// A block on the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum DownBlockType {
    /// Resnets with transformers.
    CrossAttnDownBlock2D,
    /// Resnets alone.
    DownBlock2D,
}

/// A block on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum UpBlockType {
    /// Resnets with transformers.
    CrossAttnUpBlock2D,
    /// Resnets alone.
    UpBlock2D,
}

/// `vae/config.json` (diffusers' `AutoencoderKL`).
#[derive(Clone, Debug, Deserialize)]
pub struct VaeConfig {
    /// Channels of the pictures.
    pub in_channels: usize,
    /// Channels of the pictures that come out.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each block, from the pixels inwards.
    pub block_out_channels: Vec<usize>,
    /// Resnets of an encoder block; one more in the decoder.
    pub layers_per_block: usize,
    /// Groups of the group norms.
    #[serde(default = "groups")]
    pub norm_num_groups: usize,
    /// Factor from the posterior's mean to the UNet's latents.
    #[serde(default = "first_scaling")]
    pub scaling_factor: f64,
    /// A 1×1 convolution behind the encoder.
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    /// A 1×1 convolution before the decoder.
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
    /// Attention in the middle.
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
}

fn small() -> f64 {
    1e-5
}
fn first_scaling() -> f64 {
    0.18215
}
fn groups() -> usize {
    32
}
fn one() -> usize {
    1
}
fn yes() -> bool {
    true
}
fn one_each() -> PerBlock<usize> {
    PerBlock::All(1)
}
fn no_each() -> PerBlock<bool> {
    PerBlock::All(false)
}

/// Complaints about a configuration, with the file's name.
pub(crate) struct Checker<'a>(pub(crate) &'a Path);

impl Checker<'_> {
    /// Refuses `key = value` unless `fine`.
    pub(crate) fn demand(
        &self,
        fine: bool,
        key: &str,
        value: impl std::fmt::Debug,
        accepted: &str,
    ) -> Result<(), LoadError> {
        if fine {
            return Ok(());
        }
        let (path, key, accepted) = (self.0.to_owned(), key.to_owned(), accepted.to_owned());
        Err(LoadError::Unsupported { path, key, value: format!("{value:?}"), accepted })
    }

    /// Refuses `key` unless it is absent, one of `accepted`, or a list of such.
    fn only(&self, config: &Map<String, Value>, key: &str, accepted: &[Value]) -> Result<(), LoadError> {
        let same = |a: &Value, b: &Value| a == b || a.as_f64().is_some_and(|a| b.as_f64() == Some(a));
        let values = config.get(key).map_or(&[][..], |v| v.as_array().map_or(std::slice::from_ref(v), Vec::as_slice));
        match values.iter().find(|value| !accepted.iter().any(|a| same(a, value))) {
            Some(value) => {
                let accepted = accepted.iter().map(Value::to_string).collect::<Vec<_>>().join(", ");
                let (path, key) = (self.0.to_owned(), key.to_owned());
                Err(LoadError::Unsupported { path, key, value: value.to_string(), accepted })
            }
            None => Ok(()),
        }
    }

    /// Parses the file; `only` lists keys of which few values are accepted.
    fn parse<T: serde::de::DeserializeOwned>(&self, only: &[(&str, &[Value])]) -> Result<T, LoadError> {
        let path = self.0;
        let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => LoadError::NoFile {
                folder: path.parent().unwrap_or(path).to_owned(),
                wanted: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            },
            _ => LoadError::Io { path: path.to_owned(), source },
        })?;
        let bad = |source| LoadError::Config { path: path.to_owned(), source };
        let config: Map<String, Value> = serde_json::from_str(&text).map_err(bad)?;
        only.iter().try_for_each(|(key, accepted)| self.only(&config, key, accepted))?;
        serde_json::from_value(Value::Object(config)).map_err(bad)
    }

    fn groups(&self, groups: usize, channels: &[usize]) -> Result<(), LoadError> {
        let fine = groups > 0 && channels.iter().all(|c| *c > 0 && c.is_multiple_of(groups));
        self.demand(fine, "norm_num_groups", groups, &format!("a divisor of each of block_out_channels = {channels:?}"))
    }
}

impl TextConfig {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// Names the file, and the key and value that are not supported.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let check = Checker(path);
        let config: Self = check.parse(&[("hidden_act", &[json!("quick_gelu"), json!("gelu")])])?;
        let Self { hidden_size, num_attention_heads: heads, num_hidden_layers, clip_skip, .. } = config;
        let fine = heads > 0 && hidden_size > 0 && hidden_size.is_multiple_of(heads);
        check.demand(fine, "num_attention_heads", heads, &format!("a divisor of hidden_size = {hidden_size}"))?;
        let layers = format!("less than num_hidden_layers = {num_hidden_layers}");
        check.demand(clip_skip < num_hidden_layers.max(1), "clip_skip", clip_skip, &layers)?;
        Ok(config)
    }
}

impl UnetConfig {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// Names the file, and the key and value that are not supported.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let (null, no) = (Value::Null, json!(false));
        let (unset, one, three) = (std::slice::from_ref(&null), &[json!(1)], &[json!(3)]);
        let off = &[null.clone(), no];
        let only: &[(&str, &[Value])] = &[
            ("act_fn", &[json!("silu"), json!("swish")]),
            ("addition_embed_type", unset),
            ("attention_type", &[json!("default")]),
            ("center_input_sample", off),
            ("class_embed_type", unset),
            ("conv_in_kernel", three),
            ("conv_out_kernel", three),
            ("cross_attention_norm", unset),
            ("down_block_types", &[json!("CrossAttnDownBlock2D"), json!("DownBlock2D")]),
            ("dual_cross_attention", off),
            ("encoder_hid_dim", unset),
            ("encoder_hid_dim_type", unset),
            ("mid_block_only_cross_attention", off),
            ("mid_block_scale_factor", one),
            ("mid_block_type", &[json!("UNetMidBlock2DCrossAttn")]),
            ("num_class_embeds", unset),
            ("resnet_out_scale_factor", one),
            ("resnet_skip_time_act", off),
            ("resnet_time_scale_shift", &[json!("default")]),
            ("reverse_transformer_layers_per_block", unset),
            ("time_cond_proj_dim", unset),
            ("time_embedding_act_fn", unset),
            ("time_embedding_dim", unset),
            ("time_embedding_type", &[json!("positional")]),
            ("timestep_post_act", unset),
            ("up_block_types", &[json!("CrossAttnUpBlock2D"), json!("UpBlock2D")]),
        ];
        let config: Self = Checker(path).parse(only)?;
        config.check(&Checker(path))?;
        Ok(config)
    }

    fn check(&self, check: &Checker<'_>) -> Result<(), LoadError> {
        let channels = &self.block_out_channels;
        let count = channels.len();
        let as_many = format!("as many as block_out_channels: {count}, at least 1");
        check.demand(
            count > 0 && self.down_block_types.len() == count,
            "down_block_types",
            &self.down_block_types,
            &as_many,
        )?;
        check.demand(self.up_block_types.len() == count, "up_block_types", &self.up_block_types, &as_many)?;
        check.demand(self.downsample_padding < 2, "downsample_padding", self.downsample_padding, "0, 1")?;
        let even = channels[0].is_multiple_of(2) && (channels[0] / 2) as f64 > self.freq_shift;
        check.demand(even, "freq_shift", self.freq_shift, "less than half of an even first block_out_channels")?;
        check.groups(self.norm_num_groups, channels)?;
        for (block, width) in channels.iter().enumerate() {
            let heads = self.heads(block);
            let fine = heads > 0 && width.is_multiple_of(heads);
            check.demand(
                fine,
                "attention_head_dim",
                heads,
                &format!("a number of heads that divides {width} channels"),
            )?;
        }
        Ok(())
    }

    /// Heads of block `block`; the last block's for the middle.
    pub(crate) fn heads(&self, block: usize) -> usize {
        self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim).of(block).unwrap_or(0)
    }
}

impl VaeConfig {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// Names the file, and the key and value that are not supported.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let check = Checker(path);
        let config: Self = check.parse(&[
            ("act_fn", &[json!("silu"), json!("swish")]),
            ("down_block_types", &[json!("DownEncoderBlock2D")]),
            ("up_block_types", &[json!("UpDecoderBlock2D")]),
            ("latents_mean", &[Value::Null]),
            ("latents_std", &[Value::Null]),
            ("shift_factor", &[Value::Null, json!(0.0)]),
        ])?;
        check.demand(config.in_channels == 3, "in_channels", config.in_channels, "3")?;
        check.demand(config.out_channels == 3, "out_channels", config.out_channels, "3")?;
        check.demand(
            !config.block_out_channels.is_empty(),
            "block_out_channels",
            &config.block_out_channels,
            "at least one",
        )?;
        check.groups(config.norm_num_groups, &config.block_out_channels)?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unet(change: impl FnOnce(&mut Map<String, Value>)) -> Result<UnetConfig, LoadError> {
        let config = json!({
            "in_channels": 4, "out_channels": 4, "block_out_channels": [32, 64], "layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "attention_head_dim": [2, 4], "cross_attention_dim": 16, "mid_block_scale_factor": 1,
        });
        let Value::Object(mut config) = config else { unreachable!() };
        change(&mut config);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, Value::Object(config).to_string()).unwrap();
        UnetConfig::load(&path)
    }

    #[test]
    fn heads_come_from_the_historic_key_unless_the_newer_one_is_there() {
        let config = unet(|_| {}).unwrap();
        assert_eq!([config.heads(0), config.heads(1), config.heads(7)], [2, 4, 4]);
        let config = unet(|c| drop(c.insert("num_attention_heads".into(), json!(8)))).unwrap();
        assert_eq!([config.heads(0), config.heads(1)], [8, 8]);
        let config = unet(|c| drop(c.insert("num_attention_heads".into(), Value::Null))).unwrap();
        assert_eq!(config.heads(1), 4);
    }

    #[test]
    fn unsupported_values_are_refused_by_key_and_value() {
        let cases = [
            ("class_embed_type", json!("timestep"), "timestep"),
            ("down_block_types", json!(["AttnDownBlock2D", "DownBlock2D"]), "AttnDownBlock2D"),
            ("resnet_time_scale_shift", json!("scale_shift"), "scale_shift"),
            ("mid_block_scale_factor", json!(2.5), "2.5"),
            ("norm_num_groups", json!(5), "5"),
            ("attention_head_dim", json!(3), "3"),
            ("downsample_padding", json!(2), "2"),
            ("up_block_types", json!(["UpBlock2D"]), "UpBlock2D"),
        ];
        for (key, value, shown) in cases {
            let error = unet(|c| drop(c.insert(key.into(), value))).unwrap_err().to_string();
            assert!(error.contains(&format!("{key} = ")) && error.contains(shown), "{error}");
            assert!(error.contains("config.json") && error.contains("accepted: "), "{error}");
        }
    }

    #[test]
    fn absent_and_garbled_files_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        assert!(matches!(UnetConfig::load(&path), Err(LoadError::NoFile { .. })));
        std::fs::write(&path, "{\"in_channels\": 4,").unwrap();
        assert!(matches!(UnetConfig::load(&path), Err(LoadError::Config { .. })));
        std::fs::write(&path, "{}").unwrap();
        assert!(VaeConfig::load(&path).unwrap_err().to_string().contains("missing field `in_channels`"));
    }
}
