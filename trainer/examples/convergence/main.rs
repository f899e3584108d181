//! Does training converge, stop, and leave the prompts alone? Measures it on the bundled subjects and prints the tables of
//! BENCHMARKS.md.
//!
//! ```text
//! cargo run --release -p likeness-trainer --example convergence [-- [sweep] [matrix] [prompts] [--json FILE] [--model DIR]]
//! ```
//! Without a name it measures all three. `--model` takes any model directory with `subjects/*/*.png`.

mod matrix;
mod prompts;
mod sweep;
mod world;

use std::path::PathBuf;

use serde_json::{Map, Value};

use world::{AnyError, World};

/// Measures one part and prints its table.
type Measure = fn(&World) -> Result<Value, AnyError>;

fn main() -> Result<(), AnyError> {
    let mut model = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/avatar-tiny"));
    let (mut json, mut parts) = (None, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = Some(arguments.next().ok_or("--json needs a file")?),
            "--model" => model = arguments.next().ok_or("--model needs a directory")?.into(),
            "sweep" | "matrix" | "prompts" => parts.push(argument),
            _ => {
                return Err(
                    format!("{argument:?} is unknown; accepted are sweep, matrix, prompts, --json, --model").into()
                );
            }
        }
    }
    let world = World::load(&model)?;
    let all: [(&str, Measure); 3] =
        [("sweep", sweep::measure), ("matrix", matrix::measure), ("prompts", prompts::measure)];
    let mut report = Map::new();
    for (name, measure) in all {
        if parts.is_empty() || parts.iter().any(|part| part == name) {
            report.insert(name.to_owned(), measure(&world)?);
        }
    }
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}
