//! The trainer on the bundled model.

#[cfg(test)]
mod common;
#[cfg(test)]
mod packing;
#[cfg(test)]
mod ranks;
#[cfg(test)]
mod task;
#[cfg(test)]
mod training;
