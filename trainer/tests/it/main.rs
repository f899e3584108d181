//! The trainer on the bundled model.

mod common;
mod task;
mod training;
