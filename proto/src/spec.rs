//! Specs: how to learn and what to draw. A request may leave fields out; a resolved spec has every field, checked.
//!
//! The stored form of a spec is its wire message with every field present: `resolve` once, at submit; afterwards
//! `try_from`, which takes no defaults.

mod render;
mod train;

pub use render::{Prompt, RENDER_DEFAULTS, RenderDefaults, RenderSpec};
pub use train::{Method, TRAIN_DEFAULTS, TextualInversion, TrainDefaults, TrainSpec};

use std::ops::RangeInclusive;

use crate::Refusal;

/// What resolving a spec needs to know of the base model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// Pixels of the side that the model was trained at.
    pub native_size: u32,
    /// Pixels per latent; sizes are multiples of it.
    pub factor: u32,
}

/// Pixels a side that are accepted of any model.
const SIZES: RangeInclusive<u32> = 8..=4096;

impl ModelFacts {
    /// Refuses a size that has no whole number of latents.
    fn check_size(&self, field: &str, size: u32) -> Result<(), Refusal> {
        if self.factor > 0 && size.is_multiple_of(self.factor) {
            return Ok(());
        }
        let (factor, native) = (self.factor, self.native_size);
        Err(Refusal::invalid(format!("{field} is {size}; accepted are multiples of {factor}, best is {native}")))
    }
}

#[cfg(test)]
mod tests;
