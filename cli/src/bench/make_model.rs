//! A model directory of seeded random weights: speed and memory do not depend on the weights' values, so that a full-size
//! model needs no download to be measured.

mod architecture;
mod layout;
mod weights;

pub use architecture::Known;
pub use weights::Precision;

use crate::args::MakeModelArgs;
use crate::bundle::Bundle;
use crate::exit::{Exit, Failure};
use crate::files;
use architecture::Architecture;
use layout::Tensor;
use likeness_diffusion::config::{TextConfig, UnetConfig, VaeConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;

#[derive(Debug, Serialize)]
pub(super) struct MadeView {
    out: String,
    /// Of all components.
    parameters: usize,
}

pub(super) fn make(args: &MakeModelArgs) -> Result<MadeView, Failure> {
    let (architecture, tokenizer) = (args.arch.architecture(), Bundle::find()?.model().join("tokenizer"));
    let mut parameters = 0;
    files::write_dir(&args.out, |dir| {
        parameters = write(&architecture, &tokenizer, args.dtype, args.seed, dir)?;
        Ok(())
    })?;
    Ok(MadeView { out: args.out.display().to_string(), parameters })
}

/// Writes every file of the model into `dir`, and says how many parameters it has.
fn write(
    architecture: &Architecture,
    tokenizer: &Path,
    precision: Precision,
    seed: u64,
    dir: &Path,
) -> Result<usize, Failure> {
    write_json(&dir.join("model_index.json"), &Architecture::index())?;
    write_json(&dir.join("scheduler/scheduler_config.json"), &architecture.scheduler)?;
    write_tokenizer(tokenizer, parsed::<TextConfig>(&architecture.text_encoder)?.vocab_size, &dir.join("tokenizer"))?;
    let mut parameters = 0;
    for (folder, file, config, tensors) in components(architecture)? {
        write_json(&dir.join(folder).join("config.json"), config)?;
        files::write_with(&dir.join(folder).join(file), |out| weights::write(out, &tensors, precision, seed))?;
        parameters += tensors.iter().map(Tensor::elements).sum::<usize>();
    }
    Ok(parameters)
}

/// Folder, weight file, configuration and tensors.
type Component<'a> = (&'static str, &'static str, &'a Value, Vec<Tensor>);

fn components(architecture: &Architecture) -> Result<[Component<'_>; 3], Failure> {
    const NETWORK: &str = "diffusion_pytorch_model.safetensors";
    let Architecture { text_encoder, unet, vae, .. } = architecture;
    let text = layout::text_encoder(&parsed::<TextConfig>(text_encoder)?);
    Ok([
        ("text_encoder", "model.safetensors", text_encoder, text),
        ("unet", NETWORK, unet, layout::unet(&parsed::<UnetConfig>(unet)?)),
        ("vae", NETWORK, vae, layout::vae(&parsed::<VaeConfig>(vae)?)),
    ])
}

fn parsed<T: DeserializeOwned>(config: &Value) -> Result<T, Failure> {
    serde_json::from_value(config.clone()).map_err(Failure::unexpected)
}

/// The bundled tokenizer, its vocabulary filled up to `size` with tokens that no text gives: the text encoder's table is then as
/// large as the real one's, here and in the peer, which sizes it by the tokenizer.
fn write_tokenizer(from: &Path, size: usize, to: &Path) -> Result<(), Failure> {
    let read = |file: &str| {
        let path = from.join(file);
        fs::read(&path).map_err(|error| Failure::new(Exit::Model, format!("cannot read {}: {error}", path.display())))
    };
    let mut vocabulary: Map<String, Value> =
        serde_json::from_slice(&read("vocab.json")?).map_err(Failure::unexpected)?;
    for id in vocabulary.len()..size {
        vocabulary.insert(format!("<|unused{id}|>"), id.into());
    }
    write_json(&to.join("vocab.json"), &Value::Object(vocabulary))?;
    for file in ["merges.txt", "special_tokens_map.json", "tokenizer_config.json"] {
        files::write(&to.join(file), &read(file)?)?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<(), Failure> {
    files::write(path, format!("{value:#}\n").as_bytes())
}

#[cfg(test)]
mod tests;
