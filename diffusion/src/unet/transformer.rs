//! diffusers' `Transformer2DModel`: where the context enters.

use candle_core::Result;

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
        let blocks: std::result::Result<_, _> = (0..shape.layers).map(|i| Block::load(&blocks.pp(i), shape)).collect();
        Ok(Self {
            norm: scope.pp("norm").group_norm(c, groups, Then::Nothing)?,
            proj_in: projection("proj_in")?,
            blocks: blocks?,
            proj_out: projection("proj_out")?,
        })
    }

    /// `x` `(b, h, w, c)`, `context` `(b, 77, d)`, to `(b, h, w, c)`.
    pub(crate) fn forward(&self, x: &Value, context: &Value) -> Result<Value> {
        let (b, h, w, c) = x.dims4()?;
        let mut tokens = self.proj_in.forward(&self.norm.forward(x)?)?.reshape((b, h * w, c))?;
        for block in &self.blocks {
            tokens = block.forward(&tokens, context)?;
        }
        self.proj_out.forward_add(&tokens.reshape((b, h, w, c))?, x)
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
    fn load(scope: &Scope<'_>, shape: Shape) -> std::result::Result<Self, LoadError> {
        let c = shape.width;
        let feed = scope.pp("ff").pp("net");
        Ok(Self {
            norm1: scope.pp("norm1").layer_norm(c, LAYER_EPSILON)?,
            attn1: Attend::load(&scope.pp("attn1"), shape, shape.only_cross)?,
            norm2: scope.pp("norm2").layer_norm(c, LAYER_EPSILON)?,
            attn2: Attend::load(&scope.pp("attn2"), shape, true)?,
            norm3: scope.pp("norm3").layer_norm(c, LAYER_EPSILON)?,
            widen: feed.pp("0.proj").linear(c, 8 * c)?,
            narrow: feed.pp("2").linear(4 * c, c)?,
        })
    }

    fn forward(&self, x: &Value, context: &Value) -> Result<Value> {
        let x = self.attn1.forward_add(&self.norm1.forward(x)?, context, x)?;
        let x = self.attn2.forward_add(&self.norm2.forward(&x)?, context, &x)?;

        let wide = self.widen.forward(&self.norm3.forward(&x)?)?; // (b, n, 8c)
        self.narrow.forward_add(&geglu(&wide)?, &x)
    }
}

#[derive(Debug)]
enum Project {
    /// Queries, keys and values from the picture.
    OfSelf(Linear),
    /// Queries from the picture, keys and values from the context.
    OfContext { q: Linear, kv: Linear },
}

#[derive(Debug)]
struct Attend {
    attention: Attention,
    project: Project,
    out: Linear,
}

impl Attend {
    fn load(scope: &Scope<'_>, shape: Shape, cross: bool) -> std::result::Result<Self, LoadError> {
        let c = shape.width;
        let project = match cross {
            false => Project::OfSelf(scope.fused(&["to_q", "to_k", "to_v"], c, c, false)?),
            true => Project::OfContext {
                q: scope.fused(&["to_q"], c, c, false)?,
                kv: scope.fused(&["to_k", "to_v"], shape.context, c, false)?,
            },
        };
        let attention = Attention { heads: shape.heads, causal: false };
        Ok(Self { attention, project, out: scope.pp("to_out.0").linear(c, c)? })
    }

    fn forward_add(&self, x: &Value, context: &Value, residual: &Value) -> Result<Value> {
        let seen = match &self.project {
            Project::OfSelf(qkv) => self.attention.to_self(&qkv.forward(x)?)?,
            Project::OfContext { q, kv } => self.attention.to_other(&q.forward(x)?, &kv.forward(context)?)?,
        };
        self.out.forward_add(&seen, residual)
    }
}
