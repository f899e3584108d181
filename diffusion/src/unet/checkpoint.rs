//! Parts of the UNet that the way back runs again instead of keeping what they computed.

use std::sync::Arc;

use candle_core::Result;

use super::Middle;
use super::blocks::Resnet;
use super::context::Seen;
use super::transformer::Transformer;
use crate::ops::tape::{Part, Value};

/// What a gradient checkpoint runs again as one.
pub(super) trait Block: Send + Sync {
    fn forward(&self, x: &Value, time: &Value, seen: &Seen<'_>) -> Result<Value>;

    /// Gives back the memory of mapped weights until they are read again.
    fn release(&self);
}

impl Block for (Resnet, Option<Transformer>) {
    fn forward(&self, x: &Value, time: &Value, seen: &Seen<'_>) -> Result<Value> {
        let x = self.0.forward(x, Some(time))?;
        self.1.as_ref().map_or(Ok(x.clone()), |transformer| transformer.forward(&x, seen))
    }

    fn release(&self) {
        self.0.release();
        self.1.iter().for_each(Transformer::release);
    }
}

impl Block for Middle {
    fn forward(&self, x: &Value, time: &Value, seen: &Seen<'_>) -> Result<Value> {
        let x = self.transformer.forward(&self.first.forward(x, Some(time))?, seen)?;
        self.last.forward(&x, Some(&seen.beside(&x, time)?))
    }

    fn release(&self) {
        [&self.first, &self.last].into_iter().for_each(Resnet::release);
        self.transformer.release();
    }
}

/// A block that keeps nothing but its inputs, and whose mapped weights are in memory only while it runs: where activations are too
/// much, weights may be.
pub(super) struct Checkpoint<B> {
    pub(super) block: Arc<B>,
    pub(super) time: Value,
}

impl<B: Block> Part for Checkpoint<B> {
    fn run(&self, x: &Value, context: &Value) -> Result<Value> {
        self.block.forward(x, &self.time, &Seen::Encoded(context))
    }

    fn rest(&self) {
        self.block.release();
    }
}
