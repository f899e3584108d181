//! CLIP's text encoder, with a splice for learned rows.

use std::borrow::Cow;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::cache::ModelCache;
use crate::config::TextConfig;
use crate::error::LoadError;
use crate::model::Computing;
use crate::ops::activation::Activation;
use crate::ops::attention::Attention;
use crate::ops::composed::Place;
use crate::ops::glue::{Splice, splice};
use crate::ops::layer_norm::LayerNorm;
use crate::ops::linear::Linear;
use crate::ops::tape::{Value, frozen};
use crate::stored::Values;
use crate::tokenizer::Prompt;
use crate::weights::{Scope, WeightFile, weight_file};

/// Buffers that old versions of transformers saved along with the weights.
const HARMLESS: &[&str] = &["text_model.embeddings.position_ids"];

/// The frozen CLIP text encoder.
#[derive(Debug)]
pub struct TextEncoder {
    config: TextConfig,
    /// `(vocabulary, d)`.
    tokens: Values,
    /// `(positions, d)`.
    positions: Vec<f32>,
    layers: Vec<Layer>,
    last_norm: LayerNorm,
    vocabulary_norm: f32,
    place: Place,
}

impl TextEncoder {
    /// Reads `config.json` and `model.safetensors` (or `model.fp16.safetensors`) of `folder`.
    ///
    /// # Errors
    /// Names the file, and the key or tensor in it, that is missing, surplus or wrong.
    pub fn load(
        folder: &Path,
        computing: Computing,
        device: &Device,
        cache: Option<&ModelCache>,
    ) -> std::result::Result<Self, LoadError> {
        let (config, place) = (TextConfig::load(&folder.join("config.json"))?, computing.place(device));
        let file = WeightFile::open(folder.join(weight_file(folder, "model")?), computing, &place, cache)?;
        let d = config.hidden_size;
        let root = file.root().pp("text_model");
        let embeddings = root.pp("embeddings");
        let tokens = embeddings.values("token_embedding.weight", &[config.vocab_size, d])?;
        let positions = embeddings.take("position_embedding.weight", &[config.max_position_embeddings, d])?;
        let layers = root.pp("encoder").pp("layers");
        let layers: std::result::Result<Vec<_>, _> =
            (0..config.num_hidden_layers).map(|i| Layer::load(&layers.pp(i), &config)).collect();
        let (layers, last_norm) = (layers?, root.pp("final_layer_norm").layer_norm(d, config.layer_norm_eps)?);
        file.finish(HARMLESS)?;
        let vocabulary_norm = median_norm(&tokens, d);
        Ok(Self { config, tokens, positions, layers, last_norm, vocabulary_norm, place })
    }

    /// The files of `folder` that [`Self::load`] reads.
    pub(crate) fn files(folder: &Path) -> std::result::Result<Vec<String>, LoadError> {
        Ok(vec!["config.json".into(), weight_file(folder, "model")?])
    }

    /// Its configuration.
    pub(crate) fn config(&self) -> &TextConfig {
        &self.config
    }

    /// Width d of its token rows and of the context.
    pub fn width(&self) -> usize {
        self.config.hidden_size
    }

    /// Tokens that a prompt has.
    pub fn positions(&self) -> usize {
        self.config.max_position_embeddings
    }

    /// Rows of the token table.
    pub fn vocabulary(&self) -> usize {
        self.config.vocab_size
    }

    /// Median L2 norm of the token table's rows.
    pub fn vocabulary_norm(&self) -> f32 {
        self.vocabulary_norm
    }

    /// Rows `(n, d)` of the frozen token table.
    ///
    /// # Errors
    /// An id that the table does not have.
    pub fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let rows: Result<Vec<_>> = ids.iter().map(|id| self.row(*id)).collect();
        Tensor::from_vec(rows?.concat(), (ids.len(), self.width()), &self.place.device)
    }

    fn row(&self, id: u32) -> Result<Cow<'_, [f32]>> {
        let (row, d) = (id as usize, self.width());
        if row >= self.vocabulary() {
            bail!("token {id} is not in the table of {} rows", self.vocabulary());
        }
        Ok(self.tokens.get(row * d..(row + 1) * d))
    }

    /// The context `(77, d)` of one prompt; as [`Self::forward`], whose bits it has.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn encode(&self, prompt: &Prompt, learned: Option<&Tensor>) -> Result<Tensor> {
        self.forward(std::slice::from_ref(prompt), learned)?.squeeze(0)
    }

    /// The context `(b, 77, d)` of `b` prompts in f32, differentiable with respect to `learned` `(n, d)`.
    ///
    /// # Errors
    /// A slot without its row, an id that the table does not have, a prompt of another length than the model's.
    pub fn forward(&self, prompts: &[Prompt], learned: Option<&Tensor>) -> Result<Tensor> {
        let (block, slots) = self.embed(prompts)?;
        let (d, shape) = (self.width(), (prompts.len(), self.positions(), self.width()));
        match learned {
            Some(learned) if learned.dims().last() != Some(&d) => {
                bail!("learned rows of shape {:?} do not fit a text encoder of width {d}", learned.shape())
            }
            Some(learned) => frozen(&learned.to_dtype(self.place.dtype)?, |learned| {
                self.pass(splice(learned, block.clone(), slots.clone())?.reshape(shape)?)
            }),
            None if slots.is_empty() => {
                let tokens = self.place.tensor(block, &[shape.0, shape.1, shape.2])?;
                frozen(&tokens, |tokens| self.pass(tokens.clone()))
            }
            None => bail!("a prompt has slots for learned rows, but none were given"),
        }?
        .to_dtype(DType::F32)
    }

    fn pass(&self, mut x: Value) -> Result<Value> {
        for layer in &self.layers[..self.layers.len() - self.config.clip_skip] {
            x = layer.forward(&x)?;
        }
        self.last_norm.forward(&x)
    }

    /// Token rows plus position rows, `(b, 77, d)`, the token's left out where a learned row is to be added.
    fn embed(&self, prompts: &[Prompt]) -> Result<(Vec<f32>, Vec<Splice>)> {
        let (d, length) = (self.width(), self.positions());
        let (mut block, mut slots) = (Vec::with_capacity(prompts.len() * length * d), Vec::new());
        for (sample, prompt) in prompts.iter().enumerate() {
            if prompt.ids.len() != length {
                bail!("a prompt has {} ids, the text encoder {length} positions", prompt.ids.len());
            }
            for slot in &prompt.slots {
                if slot.position >= length {
                    bail!("a slot at position {}, past the last of {length}", slot.position);
                }
                slots.push(Splice { row: sample * length + slot.position, learned: slot.vector });
            }
            for (position, id) in prompt.ids.iter().enumerate() {
                let offset = &self.positions[position * d..][..d];
                match prompt.slots.iter().any(|slot| slot.position == position) {
                    true => block.extend_from_slice(offset),
                    false => block.extend(self.row(*id)?.iter().zip(offset).map(|(token, offset)| token + offset)),
                }
            }
        }
        Ok((block, slots))
    }
}

fn median_norm(table: &Values, width: usize) -> f32 {
    let norm = |first| table.get(first..first + width).iter().map(|x| x * x).sum::<f32>().sqrt();
    let mut norms: Vec<f32> = (0..table.len()).step_by(width).map(norm).collect();
    norms.sort_by(f32::total_cmp);
    norms.get(norms.len() / 2).copied().unwrap_or_default()
}

#[derive(Debug)]
struct Layer {
    norm1: LayerNorm,
    /// Queries, keys and values in one.
    qkv: Linear,
    attention: Attention,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    activation: Activation,
    fc2: Linear,
}

impl Layer {
    fn load(scope: &Scope<'_>, config: &TextConfig) -> std::result::Result<Self, LoadError> {
        let (d, middle, epsilon) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let (attention, mlp) = (scope.pp("self_attn"), scope.pp("mlp"));
        Ok(Self {
            norm1: scope.pp("layer_norm1").layer_norm(d, epsilon)?,
            qkv: attention.fused(&["q_proj", "k_proj", "v_proj"], d, d, true)?,
            attention: Attention { heads: config.num_attention_heads, causal: true },
            out: attention.pp("out_proj").linear(d, d)?,
            norm2: scope.pp("layer_norm2").layer_norm(d, epsilon)?,
            fc1: mlp.pp("fc1").linear(d, middle)?,
            activation: if config.hidden_act == "gelu" { Activation::Gelu } else { Activation::QuickGelu },
            fc2: mlp.pp("fc2").linear(middle, d)?,
        })
    }

    fn forward(&self, x: &Value) -> Result<Value> {
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?; // (b, 77, 3d)
        let x = self.out.forward_add(&self.attention.to_self(&qkv)?, x)?;

        let middle = self.fc1.forward(&self.norm2.forward(&x)?)?;
        self.fc2.forward_add(&self.activation.forward(&middle)?, &x)
    }
}
