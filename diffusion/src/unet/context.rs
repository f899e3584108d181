//! What the cross-attentions look at.

use candle_core::{Result, Tensor, bail};

use crate::ops::tape::Value;

/// A prompt as the UNet looks at it: the keys and values `(1, 77, 2c)` that each of its cross-attentions makes of the text encoder's
/// output. They are the same in every denoising step.
#[derive(Debug)]
pub struct Context(pub(super) Vec<Tensor>);

/// What the cross-attentions of a pass look at.
pub(super) enum Seen<'a> {
    /// The text encoder's output `(b, 77, d)`, one of each sample; a gradient may flow through it.
    Encoded(&'a Value),
    /// Contexts that were made before, of a sample one or several.
    Contexts {
        /// Keys and values `(n, 77, 2c)` of each cross-attention by its number.
        each: Vec<Value>,
        /// `(n)`: whose context each is.
        samples: Tensor,
    },
}

impl Seen<'_> {
    /// The contexts of each sample, in this order.
    pub(super) fn contexts(of: &[Vec<&Context>]) -> Result<Self> {
        let contexts: Vec<&Context> = of.iter().flatten().copied().collect();
        let samples = of.iter().zip(0u32..).flat_map(|(own, sample)| own.iter().map(move |_| sample));
        let Some(Context(first)) = contexts.first() else { bail!("a pass without a context") };
        let number = |number: usize| {
            let own = contexts.iter().map(|context| context.0.get(number));
            let Some(own) = own.collect::<Option<Vec<&Tensor>>>() else { bail!("contexts of different UNets") };
            Value::constant(&Tensor::cat(&own, 0)?)
        };
        let each = (0..first.len()).map(number).collect::<Result<Vec<_>>>()?;
        let Some(one) = first.first() else { bail!("a context of a UNet without cross-attention") };
        let samples = Tensor::new(samples.collect::<Vec<u32>>(), one.device())?;
        Ok(Self::Contexts { each, samples })
    }

    /// A value of each sample as one of each context: what is computed before the context is looked at is computed once for all contexts
    /// of a sample, as the two of classifier-free guidance. What is of each context already stays as it is.
    pub(super) fn spread(&self, x: &Value) -> Result<Value> {
        match self {
            Self::Contexts { samples, .. } if x.tensor().dim(0)? != samples.dim(0)? => {
                Value::constant(&x.tensor().index_select(samples, 0)?)
            }
            Self::Encoded(_) | Self::Contexts { .. } => Ok(x.clone()),
        }
    }

    /// `y`, of each context if `x` is.
    pub(super) fn beside(&self, x: &Value, y: &Value) -> Result<Value> {
        if x.tensor().dim(0)? == y.tensor().dim(0)? { Ok(y.clone()) } else { self.spread(y) }
    }
}
