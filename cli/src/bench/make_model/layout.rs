//! Names and shapes of the tensors of a component, as diffusers and transformers write them.

use likeness_diffusion::config::{DownBlockType, TextConfig, UnetConfig, UpBlockType, VaeConfig};

/// A tensor to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) fill: Fill,
}

/// What is in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fill {
    /// This value everywhere.
    Constant(f32),
    /// Random values around 0 of this standard deviation.
    Spread(f32),
}

impl Tensor {
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Standard deviation of the rows of CLIP's tables.
const TABLE: f32 = 0.02;

/// The tensors of `text_encoder`.
pub(super) fn text_encoder(config: &TextConfig) -> Vec<Tensor> {
    let (mut list, d) = (List::default(), config.hidden_size);
    list.table("text_model.embeddings.token_embedding", config.vocab_size, d);
    list.table("text_model.embeddings.position_embedding", config.max_position_embeddings, d);
    for layer in 0..config.num_hidden_layers {
        let at = format!("text_model.encoder.layers.{layer}");
        for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            list.linear(&format!("{at}.self_attn.{projection}"), d, d);
        }
        list.norm(&format!("{at}.layer_norm1"), d);
        list.linear(&format!("{at}.mlp.fc1"), d, config.intermediate_size);
        list.linear(&format!("{at}.mlp.fc2"), config.intermediate_size, d);
        list.norm(&format!("{at}.layer_norm2"), d);
    }
    list.norm("text_model.final_layer_norm", d);
    list.0
}

/// The tensors of `unet`.
pub(super) fn unet(config: &UnetConfig) -> Vec<Tensor> {
    let (mut list, channels) = (List::default(), &config.block_out_channels);
    let (first, last, layers) = (channels[0], channels.len() - 1, config.layers_per_block);
    let time = Some(4 * first);
    list.conv("conv_in", config.in_channels, first, 3);
    list.linear("time_embedding.linear_1", first, 4 * first);
    list.linear("time_embedding.linear_2", 4 * first, 4 * first);

    for (block, kind) in config.down_block_types.iter().enumerate() {
        let (at, width) = (format!("down_blocks.{block}"), channels[block]);
        for layer in 0..layers {
            let inputs = if layer == 0 { channels[block.saturating_sub(1)] } else { width };
            list.resnet(&format!("{at}.resnets.{layer}"), inputs, width, time);
            if *kind == DownBlockType::CrossAttnDownBlock2D {
                list.transformer(&format!("{at}.attentions.{layer}"), width, config);
            }
        }
        if block < last {
            list.conv(&format!("{at}.downsamplers.0.conv"), width, width, 3);
        }
    }

    list.resnet("mid_block.resnets.0", channels[last], channels[last], time);
    list.transformer("mid_block.attentions.0", channels[last], config);
    list.resnet("mid_block.resnets.1", channels[last], channels[last], time);

    for (up, kind) in config.up_block_types.iter().enumerate() {
        let (at, block) = (format!("up_blocks.{up}"), last - up);
        let width = channels[block];
        for layer in 0..=layers {
            // What comes from below, next to what was left on the way down.
            let below = if layer == 0 { channels[(block + 1).min(last)] } else { width };
            let beside = if layer == layers { channels[block.saturating_sub(1)] } else { width };
            list.resnet(&format!("{at}.resnets.{layer}"), below + beside, width, time);
            if *kind == UpBlockType::CrossAttnUpBlock2D {
                list.transformer(&format!("{at}.attentions.{layer}"), width, config);
            }
        }
        if up < last {
            list.conv(&format!("{at}.upsamplers.0.conv"), width, width, 3);
        }
    }
    list.norm("conv_norm_out", first);
    list.conv("conv_out", first, config.out_channels, 3);
    list.0
}

/// The tensors of `vae`.
pub(super) fn vae(config: &VaeConfig) -> Vec<Tensor> {
    let (mut list, channels, c) = (List::default(), &config.block_out_channels, config.latent_channels);
    let last = channels.len() - 1;
    list.conv("encoder.conv_in", config.in_channels, channels[0], 3);
    for (block, width) in channels.iter().enumerate() {
        let at = format!("encoder.down_blocks.{block}");
        list.resnets(&at, config.layers_per_block, channels[block.saturating_sub(1)], *width);
        if block < last {
            list.conv(&format!("{at}.downsamplers.0.conv"), *width, *width, 3);
        }
    }
    list.middle("encoder.mid_block", channels[last]);
    list.norm("encoder.conv_norm_out", channels[last]);
    list.conv("encoder.conv_out", channels[last], 2 * c, 3);
    list.conv("quant_conv", 2 * c, 2 * c, 1);

    list.conv("post_quant_conv", c, c, 1);
    list.conv("decoder.conv_in", c, channels[last], 3);
    list.middle("decoder.mid_block", channels[last]);
    for (up, width) in channels.iter().rev().enumerate() {
        let (at, below) = (format!("decoder.up_blocks.{up}"), channels[(last - up + 1).min(last)]);
        list.resnets(&at, config.layers_per_block + 1, below, *width);
        if up < last {
            list.conv(&format!("{at}.upsamplers.0.conv"), *width, *width, 3);
        }
    }
    list.norm("decoder.conv_norm_out", channels[0]);
    list.conv("decoder.conv_out", channels[0], config.out_channels, 3);
    list.0
}

/// Collects tensors, layer by layer.
#[derive(Default)]
struct List(Vec<Tensor>);

impl List {
    fn push(&mut self, name: String, shape: &[usize], fill: Fill) {
        self.0.push(Tensor { name, shape: shape.to_vec(), fill });
    }

    /// A weight whose sums over its inputs have the variance of one of them.
    fn weight(&mut self, at: &str, shape: &[usize]) {
        let inputs: usize = shape[1..].iter().product();
        self.push(format!("{at}.weight"), shape, Fill::Spread((inputs as f32).sqrt().recip()));
    }

    fn bias(&mut self, at: &str, outputs: usize) {
        self.push(format!("{at}.bias"), &[outputs], Fill::Constant(0.0));
    }

    fn table(&mut self, at: &str, rows: usize, width: usize) {
        self.push(format!("{at}.weight"), &[rows, width], Fill::Spread(TABLE));
    }

    fn norm(&mut self, at: &str, width: usize) {
        self.push(format!("{at}.weight"), &[width], Fill::Constant(1.0));
        self.bias(at, width);
    }

    fn linear(&mut self, at: &str, inputs: usize, outputs: usize) {
        self.weight(at, &[outputs, inputs]);
        self.bias(at, outputs);
    }

    fn conv(&mut self, at: &str, inputs: usize, outputs: usize, side: usize) {
        self.weight(at, &[outputs, inputs, side, side]);
        self.bias(at, outputs);
    }

    /// `time`: width of the timestep's embedding.
    fn resnet(&mut self, at: &str, inputs: usize, outputs: usize, time: Option<usize>) {
        self.norm(&format!("{at}.norm1"), inputs);
        self.conv(&format!("{at}.conv1"), inputs, outputs, 3);
        if let Some(time) = time {
            self.linear(&format!("{at}.time_emb_proj"), time, outputs);
        }
        self.norm(&format!("{at}.norm2"), outputs);
        self.conv(&format!("{at}.conv2"), outputs, outputs, 3);
        if inputs != outputs {
            self.conv(&format!("{at}.conv_shortcut"), inputs, outputs, 1);
        }
    }

    /// `count` resnets of the VAE, of which the first has `inputs` channels.
    fn resnets(&mut self, at: &str, count: usize, inputs: usize, width: usize) {
        for resnet in 0..count {
            let inputs = if resnet == 0 { inputs } else { width };
            self.resnet(&format!("{at}.resnets.{resnet}"), inputs, width, None);
        }
    }

    /// The middle of the VAE's encoder or decoder.
    fn middle(&mut self, at: &str, width: usize) {
        self.resnets(at, 2, width, width);
        self.norm(&format!("{at}.attentions.0.group_norm"), width);
        for projection in ["to_q", "to_k", "to_v", "to_out.0"] {
            self.linear(&format!("{at}.attentions.0.{projection}"), width, width);
        }
    }

    fn transformer(&mut self, at: &str, width: usize, config: &UnetConfig) {
        let block = format!("{at}.transformer_blocks.0");
        self.norm(&format!("{at}.norm"), width);
        self.projection(&format!("{at}.proj_in"), width, config.use_linear_projection);
        self.norm(&format!("{block}.norm1"), width);
        self.attention(&format!("{block}.attn1"), width, width);
        self.norm(&format!("{block}.norm2"), width);
        self.attention(&format!("{block}.attn2"), width, config.cross_attention_dim);
        self.norm(&format!("{block}.norm3"), width);
        self.linear(&format!("{block}.ff.net.0.proj"), width, 8 * width);
        self.linear(&format!("{block}.ff.net.2"), 4 * width, width);
        self.projection(&format!("{at}.proj_out"), width, config.use_linear_projection);
    }

    fn projection(&mut self, at: &str, width: usize, linear: bool) {
        match linear {
            true => self.linear(at, width, width),
            false => self.conv(at, width, width, 1),
        }
    }

    fn attention(&mut self, at: &str, width: usize, context: usize) {
        self.weight(&format!("{at}.to_q"), &[width, width]);
        self.weight(&format!("{at}.to_k"), &[width, context]);
        self.weight(&format!("{at}.to_v"), &[width, context]);
        self.linear(&format!("{at}.to_out.0"), width, width);
    }
}
