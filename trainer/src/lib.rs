//! Learns a subject from its photos: a few rows of a frozen model's token table (textual inversion).
//!
//! [`train`] is the whole method, without a service: photos become [`Latents`], a [`Subject`] is learned under a spec, and
//! [`Learned`] rows come out. [`train_packed`] does it for many subjects in shared steps, [`Trainer`] for tasks that a worker
//! leases. Knows nothing of rendering and stores.

mod checkpoint;
pub mod collective;
mod curve;
mod draws;
mod engine;
mod error;
mod group;
mod lesson;
mod measure;
mod metrics;
pub mod optimizer;
mod pack;
mod pass;
mod photos;
mod plan;
mod run;
mod spans;
mod stop;
pub mod templates;
mod train;
mod work;

pub use checkpoint::Checkpoint;
pub use curve::{Curve, Point};
pub use error::{CheckpointError, TrainError, Verdict};
pub use group::{Follower, Group, Placement, follow};
pub use lesson::{Lesson, Subject};
pub use measure::{PackTimes, Ranks, time_packing};
pub use photos::{Latents, Photo};
pub use plan::{Fit, Plan, Wishes};
pub use stop::StopRule;
pub use train::{Entry, Learned, Observer, Packing, Snapshot, train, train_in_group, train_packed};
pub use work::{Options, Trainer};
