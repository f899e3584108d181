//! How much memory a training step takes, by the shapes of its tensors: what is to fit must be known before the first step,
//! and a process's resident memory says little of the next one, since the allocator keeps what is freed.

use crate::config::{DownBlockType, PerBlock, UnetConfig, UpBlockType};
use crate::model::BaseModel;

/// Bytes that a step takes for each that its way back needs: gradients under way, buffers of the kernels, freed memory that the
/// allocator has not given back. Seen were 1.1 to 2.1, on avatar-tiny and SD 1.5.
const SLACK: u64 = 2;

/// Bytes that training takes beside the weights, which are resident as soon as the model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Each sample of a pass, when everything is kept for the way back.
    pub sample: u64,
    /// Each sample of a pass under gradient checkpointing.
    pub sample_checkpointed: u64,
}

impl BaseModel {
    /// What a pass over latents of these sides takes.
    #[must_use]
    pub fn footprint(&self, height: usize, width: usize) -> Footprint {
        let text = self.text.config();
        let wide = 6 * text.hidden_size + text.intermediate_size; // two norms, attention and what it gives, the activation
        let context = text.num_hidden_layers * text.max_position_embeddings * wide;
        let parts = parts(self.unet.config(), height * width);
        let everything: usize = parts.iter().map(|part| part.kept).sum();
        let inputs: usize = parts.iter().map(|part| part.input).sum();
        let largest = parts.iter().map(|part| part.kept).max().unwrap_or_default();
        let float = self.unet.precision().size_in_bytes() as u64;
        let bytes = |floats: usize| SLACK * float * (floats + context) as u64;
        Footprint { sample: bytes(everything), sample_checkpointed: bytes(inputs + largest) }
    }
}

/// A part of the UNet, as a gradient checkpoint cuts it; floats of one sample.
struct Part {
    /// What it reads.
    input: usize,
    /// What the way back of its ops reads.
    kept: usize,
}

/// The parts in their order; latents have `area` positions.
fn parts(config: &UnetConfig, area: usize) -> Vec<Part> {
    let (channels, last) = (&config.block_out_channels, config.block_out_channels.len() - 1);
    let part = |block: usize, inputs: usize, cross: bool| {
        let area = area >> (2 * block);
        let kept =
            resnet(inputs, channels[block]) + if cross { transformer(config, block, channels[block]) } else { 0 };
        Part { input: inputs * area, kept: kept * area }
    };

    let mut parts = Vec::new();
    for (block, kind) in config.down_block_types.iter().enumerate() {
        for layer in 0..config.layers_per_block {
            let inputs = channels[if layer == 0 { block.saturating_sub(1) } else { block }];
            parts.push(part(block, inputs, *kind == DownBlockType::CrossAttnDownBlock2D));
        }
    }
    let (middle, area_below) = (channels[last], area >> (2 * last));
    let kept = 2 * resnet(middle, middle) + transformer(config, last + 1, middle);
    parts.push(Part { input: middle * area_below, kept: kept * area_below });
    for (block, kind) in (0..=last).rev().zip(&config.up_block_types) {
        for layer in 0..=config.layers_per_block {
            let below = channels[if layer == 0 { (block + 1).min(last) } else { block }];
            let beside = channels[if layer == config.layers_per_block { block.saturating_sub(1) } else { block }];
            parts.push(part(block, below + beside, *kind == UpBlockType::CrossAttnUpBlock2D));
        }
    }
    parts
}

/// What two norms read.
fn resnet(inputs: usize, outputs: usize) -> usize {
    inputs + outputs
}

/// What a group norm reads; in each layer what three norms read, 3 + 1 channels' worth of queries, keys and values, what two
/// attentions give, and the feed-forward's 8.
fn transformer(config: &UnetConfig, block: usize, channels: usize) -> usize {
    let layers: &PerBlock<usize> = &config.transformer_layers_per_block;
    (1 + 17 * layers.of(block).unwrap_or(1)) * channels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;
    use candle_core::Device;

    #[test]
    fn memory_grows_with_the_area_and_checkpointing_saves_some() {
        let model = BaseModel::load(&golden::model("avatar-tiny"), &Device::Cpu).unwrap();
        let (small, large) = (model.footprint(16, 16), model.footprint(32, 32));
        assert!(small.sample < large.sample && large.sample <= 4 * small.sample);
        assert!(small.sample_checkpointed < small.sample / 2 + small.sample / 4);
        assert_eq!(model.footprint(16, 32), model.footprint(32, 16));
    }
}
