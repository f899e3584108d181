use super::*;
use likeness_diffusion::{BaseModel, Device, Look, SamplerKind, Shot, Start, render};
use serde_json::json;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// As many tokens as the bundled tokenizer has, and a few more.
const VOCABULARY: usize = 1300;

/// Every kind of block, a few channels wide.
fn tiny(linear: bool) -> Architecture {
    let mut architecture = if linear { Known::Sd21 } else { Known::Sd15 }.architecture();
    let change = |config: &mut Value, keys: Value| {
        let (Value::Object(config), Value::Object(keys)) = (config, keys) else { panic!("both are objects") };
        config.extend(keys);
    };
    let text = json!({
        "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": VOCABULARY,
    });
    change(&mut architecture.text_encoder, text);
    let unet = json!({
        "block_out_channels": [4, 8, 8], "norm_num_groups": 2, "attention_head_dim": 2, "cross_attention_dim": 16,
        "sample_size": 8, "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    });
    change(&mut architecture.unet, unet);
    let vae = json!({
        "block_out_channels": [4, 8], "norm_num_groups": 2, "sample_size": 16,
        "down_block_types": (["DownEncoderBlock2D"; 2]), "up_block_types": (["UpDecoderBlock2D"; 2]),
    });
    change(&mut architecture.vae, vae);
    architecture
}

fn made(architecture: &Architecture, precision: Precision, seed: u64) -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    let tokenizer = Bundle::find().unwrap().model().join("tokenizer");
    files::write_dir(&dir, |dir| write(architecture, &tokenizer, precision, seed, dir).map(drop)).unwrap();
    (root, dir)
}

#[test]
fn what_is_made_loads_without_a_missing_or_surplus_tensor_and_draws() {
    for (linear, precision) in [(false, Precision::Fp32), (true, Precision::Fp16)] {
        let (_root, dir) = made(&tiny(linear), precision, 1);
        let model = BaseModel::load(&dir, &Device::Cpu).unwrap();
        assert_eq!(model.text.vocabulary(), VOCABULARY);
        let side = model.native_size();
        let prompt = model.tokenizer.encode("a photo of a person", None).unwrap();
        let shot = Shot { prompt: prompt.clone(), negative: prompt, noise: Start::Seed(0) };
        let look = Look { sampler: SamplerKind::Ddim, steps: 2, guidance: 2.0, width: side, height: side };
        let pictures = render(&model, None, &[shot], &look, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(pictures[0].bytes.len(), 3 * side * side);
    }
}

#[test]
fn the_same_seed_makes_the_same_model() {
    let digest = |seed| {
        let (_root, dir) = made(&tiny(false), Precision::Fp16, seed);
        BaseModel::load(&dir, &Device::Cpu).unwrap().digest.to_string()
    };
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
}

#[test]
fn the_known_models_have_as_many_parameters_as_the_real_ones() {
    // Counted by diffusers 0.35.2 and transformers 4.57.1 in the modules that they build from the published configurations.
    let known =
        [(Known::Sd15, [123_060_480, 859_520_964, 83_653_863]), (Known::Sd21, [340_387_840, 865_910_724, 83_653_863])];
    for (known, expected) in known {
        let architecture = known.architecture();
        let counts = components(&architecture)
            .unwrap()
            .map(|(_, _, _, tensors)| tensors.iter().map(Tensor::elements).sum::<usize>());
        assert_eq!(counts, expected, "{known:?}");
    }
}
