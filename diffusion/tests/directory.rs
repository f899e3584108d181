//! What a broken model directory says for itself.
#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

#[path = "../src/golden.rs"]
#[allow(dead_code, unreachable_pub)]
mod golden;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use likeness_diffusion::{BaseModel, Device};
use tempfile::TempDir;

/// A copy of a tiny model directory, to break.
struct Copy {
    dir: TempDir,
}

impl Copy {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = golden::model("sd15-like");
        for folder in ["scheduler", "text_encoder", "tokenizer", "unet", "vae"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            for file in fs::read_dir(source.join(folder)).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), dir.path().join(folder).join(file.file_name())).unwrap();
            }
        }
        Self { dir }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn load(&self) -> Result<BaseModel, likeness_diffusion::LoadError> {
        BaseModel::load(self.dir.path(), &Device::Cpu)
    }

    fn complaint(&self) -> String {
        self.load().unwrap_err().to_string()
    }

    fn edit_weights(&self, file: &str, change: impl FnOnce(&mut HashMap<String, Tensor>)) {
        let path = self.path(file);
        let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, &path).unwrap();
    }

    fn edit_config(&self, file: &str, key: &str, value: serde_json::Value) {
        let path = self.path(file);
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(&path, config.to_string()).unwrap();
    }
}

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const TEXT: &str = "text_encoder/model.safetensors";

fn assert_says(complaint: &str, parts: &[&str]) {
    for part in parts {
        assert!(complaint.contains(part), "{part:?} is missing in {complaint:?}");
    }
}

#[test]
fn missing_surplus_and_misshapen_tensors_are_named_with_file_and_shape() {
    let copy = Copy::new();
    copy.edit_weights(UNET, |tensors| drop(tensors.remove("mid_block.resnets.0.conv1.weight")));
    assert_says(&copy.complaint(), &[UNET, "lacks tensor mid_block.resnets.0.conv1.weight of shape [8, 8, 3, 3]"]);

    let copy = Copy::new();
    let extra = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    copy.edit_weights(TEXT, |tensors| drop(tensors.insert("text_model.surprise".to_owned(), extra.clone())));
    assert_says(&copy.complaint(), &[TEXT, "text_model.surprise of shape [3]"]);

    let copy = Copy::new();
    copy.edit_weights(UNET, |tensors| drop(tensors.insert("conv_in.bias".to_owned(), extra)));
    assert_says(&copy.complaint(), &[UNET, "conv_in.bias of shape [3]", "asks for [4]"]);
}

#[test]
fn missing_and_corrupt_files_are_named() {
    for (file, wanted) in [
        ("unet/config.json", "config.json"),
        (UNET, "diffusion_pytorch_model.safetensors or diffusion_pytorch_model.fp16.safetensors"),
        ("text_encoder/model.safetensors", "model.safetensors or model.fp16.safetensors"),
        ("vae/config.json", "config.json"),
        ("tokenizer/merges.txt", "merges.txt"),
        ("scheduler/scheduler_config.json", "scheduler_config.json"),
    ] {
        let copy = Copy::new();
        fs::remove_file(copy.path(file)).unwrap();
        let folder = Path::new(file).parent().unwrap().to_str().unwrap();
        assert_says(&copy.complaint(), &[folder, wanted]);
    }
    for file in [UNET, TEXT, "vae/diffusion_pytorch_model.safetensors"] {
        let copy = Copy::new();
        let bytes = fs::read(copy.path(file)).unwrap();
        fs::write(copy.path(file), &bytes[..bytes.len() / 2]).unwrap();
        assert_says(&copy.complaint(), &[file, "is corrupt or truncated"]);
    }
    let copy = Copy::new();
    fs::write(copy.path("vae/config.json"), "{\"in_channels\": 3").unwrap();
    assert_says(&copy.complaint(), &["vae/config.json is not a valid configuration"]);
    let nowhere = BaseModel::load(&copy.path("nowhere"), &Device::Cpu).unwrap_err().to_string();
    assert_says(&nowhere, &["nowhere"]);
}

#[test]
fn unsupported_settings_and_parts_that_do_not_fit_are_named() {
    let copy = Copy::new();
    copy.edit_config("unet/config.json", "class_embed_type", "timestep".into());
    assert_says(&copy.complaint(), &["unet/config.json has class_embed_type = \"timestep\"", "accepted: null"]);

    let copy = Copy::new();
    copy.edit_config("text_encoder/config.json", "hidden_act", "relu".into());
    assert_says(&copy.complaint(), &["text_encoder/config.json has hidden_act = \"relu\"", "quick_gelu"]);

    let copy = Copy::new();
    copy.edit_config("text_encoder/config.json", "clip_skip", 2.into());
    assert_says(&copy.complaint(), &["clip_skip = 2", "less than num_hidden_layers = 2"]);
}

#[test]
fn the_half_size_file_loads_where_the_plain_one_is_missing() {
    let copy = Copy::new();
    let stored = || BaseModel::stored_bytes(copy.dir.path()).unwrap();
    let half = copy.path("unet/diffusion_pytorch_model.fp16.safetensors");
    let before = stored();
    fs::write(&half, "beside it").unwrap();
    assert_eq!(stored(), before, "a file that is not read takes no memory");
    fs::rename(copy.path(UNET), half).unwrap();
    assert_eq!(stored(), before);
    copy.load().unwrap();
}

#[test]
fn the_digest_follows_the_content_of_the_files_that_are_read_and_nothing_else() {
    let digest = |copy: &Copy| copy.load().unwrap().digest;
    let (copy, other) = (Copy::new(), Copy::new());
    let first = digest(&copy);
    assert_eq!(digest(&other), first, "another folder with the same files is the same model");
    fs::write(copy.path("README.md"), "not read").unwrap();
    assert_eq!(digest(&copy), first);
    let scale = |tensors: &mut HashMap<String, Tensor>| {
        let bias = (&tensors["conv_in.bias"] * 1.5).unwrap();
        tensors.insert("conv_in.bias".to_owned(), bias);
    };
    copy.edit_weights(UNET, scale);
    assert_ne!(digest(&copy), first);
    other.edit_config("scheduler/scheduler_config.json", "beta_end", 0.013.into());
    assert_ne!(digest(&other), first);
}
