//! `bench`: the work of `tests/peer/peer.py`, done the way that trainers and samplers do it, and timed. Each measurement is one
//! JSON object of the peer's fields on standard output.

mod all_reduce;
pub(crate) mod coordinator;
mod make_model;
mod pack;
mod parity;
mod render;
mod train;

pub use make_model::{Known, Precision};

use crate::args::BenchCommand;
use crate::commands::Context;
use crate::exit::Failure;
use crate::memory;
use crate::output::Format;

/// Threads that compute unless a flag says otherwise: as many as the peer takes.
pub const THREADS: usize = 2;

/// Measures or makes what is asked for.
///
/// # Errors
/// A model, photos or sizes that cannot be used; a folder that cannot be written.
pub fn command(context: &Context, command: &BenchCommand) -> Result<(), Failure> {
    match command {
        BenchCommand::Train(args) => Format::Json.print_line(&train::measure(context, args)?),
        BenchCommand::Render(args) => Format::Json.print_line(&render::measure(context, args)?),
        BenchCommand::Pack(args) => Format::Json.print_line(&pack::measure(context, args)?),
        BenchCommand::Parity(args) => Format::Json.print_line(&parity::measure(context, args)?),
        BenchCommand::AllReduce(args) => {
            all_reduce::measure(context, args)?.map_or(Ok(()), |view| Format::Json.print_line(&view))
        }
        BenchCommand::Coordinator(_) => Err(Failure::unexpected("a coordinator is measured by `coordinator::command`")),
        BenchCommand::MakeModel(args) => Format::Json.print_line(&make_model::make(args)?),
    }
}

/// The middle of `values`, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    f64::midpoint(values[low], values[high])
}

/// The most memory that this process had resident at once, MiB. Linux alone counts it where it can be read.
fn peak_mib() -> Option<f64> {
    memory::peak().map(|bytes| bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use crate::bundle::Bundle;
    use crate::settings::{Settings, Sources};
    use crate::telemetry::Console;
    use clap::Parser;
    use serde_json::Value;

    /// What `likeness bench` prints for `line` on the bundled model.
    fn measured(line: &str) -> Value {
        measured_with(Vec::new(), line)
    }

    /// The same with further settings.
    fn measured_with(settings: Vec<(&'static str, String)>, line: &str) -> Value {
        let cli = Cli::try_parse_from(format!("likeness bench {line}").split_whitespace()).unwrap();
        let flags = [settings, cli.settings()].concat();
        let resolved = Settings::resolve(&Sources { flags, ..Sources::default() }).unwrap();
        let (settings, rows) = (resolved.settings, resolved.rows);
        let context = Context { settings, rows, console: Console::stderr(), format: Format::Text };
        match cli.command {
            Command::Bench { command: BenchCommand::Train(args) } => {
                serde_json::to_value(train::measure(&context, &args).unwrap()).unwrap()
            }
            Command::Bench { command: BenchCommand::Render(args) } => {
                serde_json::to_value(render::measure(&context, &args).unwrap()).unwrap()
            }
            Command::Bench { command: BenchCommand::Pack(args) } => {
                serde_json::to_value(pack::measure(&context, &args).unwrap()).unwrap()
            }
            Command::Bench { command: BenchCommand::Parity(args) } => {
                serde_json::to_value(parity::measure(&context, &args).unwrap()).unwrap()
            }
            Command::Bench { command: BenchCommand::AllReduce(args) } => {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                let _entered = runtime.enter();
                serde_json::to_value(all_reduce::measure(&context, &args).unwrap().unwrap()).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn training_is_measured_in_the_peers_fields() {
        let images = Bundle::find().unwrap().subjects().join("subject-01");
        let line = format!("train --images {} --steps 4 --warmup 1 --batch 1 --size 64", images.display());
        let view = measured(&line);
        assert_eq!((&view["work"], &view["batch"], &view["size"]), (&"train".into(), &1.into(), &64.into()));
        assert_eq!(view["first_losses"].as_array().unwrap().len(), 3);
        assert!(view["mean_last_losses"].as_f64().unwrap().is_finite());
        let seconds = |field: &str| view[field].as_f64().unwrap();
        assert!(seconds("seconds_per_step") > 0.0);
        assert!(seconds("first_step_seconds") > seconds("load_seconds"));
        assert_eq!(view["peak_mib"].is_number(), cfg!(target_os = "linux"));
    }

    #[test]
    fn a_step_that_ranks_share_has_the_losses_of_one() {
        let images = Bundle::find().unwrap().subjects().join("subject-01");
        let line = format!("train --images {} --steps 2 --warmup 0 --batch 2 --size 64", images.display());
        let (alone, shared) = (measured(&line), measured_with(vec![("ranks", "2".to_owned())], &line));
        assert_eq!((&alone["ranks"], &shared["ranks"]), (&1.into(), &2.into()));
        let loss = |view: &Value| view["first_losses"][1].as_f64().unwrap();
        assert!((loss(&alone) - loss(&shared)).abs() < 1e-5 * loss(&alone), "{alone} {shared}");
    }

    #[test]
    fn rendering_is_measured_in_the_peers_fields() {
        let view = measured("render --images-per-batch 2 --steps 2 --size 64 --repeats 1");
        assert_eq!((&view["work"], &view["images_per_batch"]), (&"render".into(), &2.into()));
        assert_eq!((&view["steps"], &view["size"]), (&2.into(), &64.into()));
        assert!(view["seconds_per_image"].as_f64().unwrap() > 0.0);
        assert_eq!(view["peak_mib"].is_number(), cfg!(target_os = "linux"));
    }

    #[test]
    fn packing_is_measured_against_the_same_subjects_alone() {
        let view = measured("pack --subjects 2 --steps 1 --batch 1");
        assert_eq!((&view["work"], &view["subjects"], &view["slots"]), (&"pack".into(), &2.into(), &2.into()));
        let seconds = |field: &str| view[field].as_f64().unwrap();
        assert_eq!(seconds("gain"), seconds("seconds_alone") / seconds("seconds_packed"));
    }

    #[test]
    fn the_cpu_is_at_parity_with_itself() {
        let images = Bundle::find().unwrap().subjects().join("subject-01");
        let view = measured(&format!("parity --images {} --batch 1", images.display()));
        assert_eq!((&view["loss_gap"], &view["gradient_gap"]), (&0.0.into(), &0.0.into()));
        assert!((view["gradient_cosine"].as_f64().unwrap() - 1.0).abs() < 1e-9);
        assert_eq!((&view["picture_gap"], &view["picture_mean_gap"]), (&0.into(), &0.0.into()));
    }

    #[test]
    fn an_all_reduce_is_measured_between_threads() {
        let view = measured("all-reduce --backend local --ranks 3 --bytes 3072 --calls 50");
        assert_eq!((&view["backend"], &view["ranks"], &view["bytes"]), (&"local".into(), &3.into(), &3072.into()));
        let milliseconds = |field: &str| view[field].as_f64().unwrap();
        assert!(0.0 < milliseconds("median_ms") && milliseconds("median_ms") <= milliseconds("p99_ms"), "{view}");
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 9.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0, 9.0, 2.0]), 3.0);
        assert_eq!(median(vec![7.0]), 7.0);
    }
}
