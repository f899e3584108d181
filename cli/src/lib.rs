//! The client and server of Likeness as one binary: arguments, settings, telemetry, signals, and the composition of the
//! roles.

pub mod args;
pub mod bucket;
pub mod bundle;
pub mod client;
pub mod exit;
pub mod files;
pub mod output;
pub mod photos;
pub mod progress;
pub mod prompts_file;
pub mod settings;
pub mod signals;
pub mod state_dir;
pub mod telemetry;
pub mod view;
