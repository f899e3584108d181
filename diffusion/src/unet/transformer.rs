//! diffusers' `Transformer2DModel`: where the context enters.

use candle_core::{Result, bail};

use super::context::Seen;
use crate::error::LoadError;
use crate::ops::activation::geglu;
use crate::ops::attention::Attention;
use crate::ops::group_norm::{GroupNorm, Then};
use crate::ops::layer_norm::LayerNorm;
use crate::ops::linear::Linear;
use crate::ops::tape::Value;
use crate::weights::{Groups, Scope};

/// ε of a transformer's group norm; diffusers has no key for it.
const GROUP_EPSILON: f64 = 1e-6;
/// ε of its layer norms.
const LAYER_EPSILON: f64 = 1e-5;

/// Sizes of one transformer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Channels.
    pub(crate) width: usize,
    /// Width of the context.
    pub(crate) context: usize,
    /// Heads.
    pub(crate) heads: usize,
    /// Transformer blocks.
    pub(crate) layers: usize,
    /// Groups of the group norm.
    pub(crate) groups: usize,
    /// Linear projections instead of 1×1 convolutions.
    pub(crate) linear: bool,
    /// The first attention looks at the context too.
    pub(crate) only_cross: bool,
    /// Cross-attentions of the transformers before it.
    pub(crate) crossings: usize,
}

impl Shape {
    /// Cross-attentions of a block.
    fn each(&self) -> usize {
        1 + usize::from(self.only_cross)
    }

    /// Cross-attentions up to the end of this transformer.
    pub(crate) fn crossings_after(&self) -> usize {
        self.crossings + self.layers * self.each()
    }
}

/// A stack of transformer blocks over the pixels of a picture.
#[derive(Debug)]
pub(crate) struct Transformer {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<Block>,
    proj_out: Linear,
}

impl Transformer {
    pub(crate) fn load(scope: &Scope<'_>, shape: Shape) -> std::result::Result<Self, LoadError> {
        let c = shape.width;
        let groups = Groups { count: shape.groups, epsilon: GROUP_EPSILON };
        let projection = |name: &str| match shape.linear {
            true => scope.pp(name).linear(c, c),
            false => scope.pp(name).pointwise(c, c),
        };
        let blocks = scope.pp("transformer_blocks");
        let block = |i| Block::load(&blocks.pp(i), shape, shape.crossings + i * shape.each());
        let blocks: std::result::Result<_, _> = (0..shape.layers).map(block).collect();
        Ok(Self {
            norm: scope.pp("norm").group_norm(c, groups, Then::Nothing)?,
            proj_in: projection("proj_in")?,
            blocks: blocks?,
            proj_out: projection("proj_out")?,
        })
    }

    /// `x` `(b, h, w, c)` of each sample or of each context, to `(b, h, w, c)` of each context.
    pub(super) fn forward(&self, x: &Value, seen: &Seen<'_>) -> Result<Value> {
        let (b, h, w, c) = x.dims4()?;
        let mut tokens = self.proj_in.forward(&self.norm.forward(x)?)?.reshape((b, h * w, c))?;
        for block in &self.blocks {
            tokens = block.forward(&tokens, seen)?;
        }
        let tokens = tokens.reshape((tokens.tensor().dim(0)?, h, w, c))?;
        self.proj_out.forward_add(&tokens, &seen.beside(&tokens, x)?)
    }

    /// Gives back the memory of mapped weights until they are read again.
    pub(super) fn release(&self) {
        [&self.proj_in, &self.proj_out].into_iter().for_each(Linear::release);
        for block in &self.blocks {
            let attends = [&block.attn1, &block.attn2].into_iter().flat_map(Attend::layers);
            attends.chain([&block.widen, &block.narrow]).for_each(Linear::release);
        }
    }

    /// What makes keys and values of the text encoder's output, for each cross-attention in the order of their numbers.
    pub(super) fn crossings(&self) -> impl Iterator<Item = &Linear> {
        self.blocks.iter().flat_map(|block| [&block.attn1, &block.attn2]).filter_map(|attend| match &attend.project {
            Project::OfSelf(_) => None,
            Project::OfContext { kv, .. } => Some(kv),
        })
    }
}

/// diffusers' `BasicTransformerBlock`.
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    attn1: Attend,
    norm2: LayerNorm,
    attn2: Attend,
    norm3: LayerNorm,
    widen: Linear,
    narrow: Linear,
}

impl Block {
    /// `crossing`: the number of its first cross-attention.
    fn load(scope: &Scope<'_>, shape: Shape, crossing: usize) -> std::result::Result<Self, LoadError> {
        let c = shape.width;
        let feed = scope.pp("ff").pp("net");
        Ok(Self {
            norm1: scope.pp("norm1").layer_norm(c, LAYER_EPSILON)?,
            attn1: Attend::load(&scope.pp("attn1"), shape, shape.only_cross.then_some(crossing))?,
            norm2: scope.pp("norm2").layer_norm(c, LAYER_EPSILON)?,
            attn2: Attend::load(&scope.pp("attn2"), shape, Some(crossing + shape.each() - 1))?,
            norm3: scope.pp("norm3").layer_norm(c, LAYER_EPSILON)?,
            widen: feed.pp("0.proj").linear(c, 8 * c)?,
            narrow: feed.pp("2").linear(4 * c, c)?,
        })
    }

    fn forward(&self, x: &Value, seen: &Seen<'_>) -> Result<Value> {
        let x = self.attn1.forward_add(&self.norm1.forward(x)?, seen, x)?;
        let x = self.attn2.forward_add(&self.norm2.forward(&x)?, seen, &x)?;

        let wide = self.widen.forward(&self.norm3.forward(&x)?)?; // (b, n, 8c)
        self.narrow.forward_add(&geglu(&wide)?, &x)
    }
}

#[derive(Debug)]
enum Project {
    /// Queries, keys and values from the picture.
    OfSelf(Linear),
    /// Queries from the picture, keys and values from the context. Cross-attentions are numbered in the order of the pass.
    OfContext { q: Linear, kv: Linear, number: usize },
}

#[derive(Debug)]
struct Attend {
    attention: Attention,
    project: Project,
    out: Linear,
}

impl Attend {
    /// `crossing`: the number of a cross-attention.
    fn load(scope: &Scope<'_>, shape: Shape, crossing: Option<usize>) -> std::result::Result<Self, LoadError> {
        let c = shape.width;
        let project = match crossing {
            None => Project::OfSelf(scope.fused(&["to_q", "to_k", "to_v"], c, c, false)?),
            Some(number) => Project::OfContext {
                q: scope.fused(&["to_q"], c, c, false)?,
                kv: scope.fused(&["to_k", "to_v"], shape.context, c, false)?,
                number,
            },
        };
        let attention = Attention { heads: shape.heads, causal: false };
        Ok(Self { attention, project, out: scope.pp("to_out.0").linear(c, c)? })
    }

    fn layers(&self) -> impl Iterator<Item = &Linear> {
        let (first, second) = match &self.project {
            Project::OfSelf(qkv) => (qkv, None),
            Project::OfContext { q, kv, .. } => (q, Some(kv)),
        };
        [first, &self.out].into_iter().chain(second)
    }

    fn forward_add(&self, x: &Value, seen: &Seen<'_>, residual: &Value) -> Result<Value> {
        let answer = match (&self.project, seen) {
            (Project::OfSelf(qkv), _) => self.attention.to_self(&qkv.forward(x)?)?,
            (Project::OfContext { q, kv, .. }, Seen::Encoded(context)) => {
                self.attention.to_other(&q.forward(x)?, &kv.forward(context)?)?
            }
            (Project::OfContext { q, number, .. }, Seen::Contexts { each, .. }) => {
                let Some(kv) = each.get(*number) else { bail!("the context is another UNet's") };
                self.attention.to_other(&seen.spread(&q.forward(x)?)?, kv)?
            }
        };
        self.out.forward_add(&answer, &seen.beside(&answer, residual)?)
    }
}
