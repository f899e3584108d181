//! The configurations of known models, as their `config.json` files say them.

use clap::ValueEnum;
use serde_json::{Value, json};

/// A known model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Known {
    /// Stable Diffusion 1.5: predicts noise, at 512 pixels.
    Sd15,
    /// Stable Diffusion 2.1: predicts velocity, at 768 pixels.
    Sd21,
}

/// What the files of a model directory say of its components.
#[derive(Clone, Debug)]
pub(super) struct Architecture {
    pub(super) text_encoder: Value,
    pub(super) unet: Value,
    pub(super) vae: Value,
    pub(super) scheduler: Value,
}

impl Known {
    pub(super) fn architecture(self) -> Architecture {
        match self {
            Self::Sd15 => sd15(),
            Self::Sd21 => sd21(),
        }
    }
}

impl Architecture {
    /// `model_index.json`, which says what reads each folder.
    pub(super) fn index() -> Value {
        json!({
            "_class_name": "StableDiffusionPipeline", "_diffusers_version": DIFFUSERS,
            "feature_extractor": [null, null], "requires_safety_checker": false, "safety_checker": [null, null],
            "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        })
    }
}

/// The version whose keys these are.
const DIFFUSERS: &str = "0.35.2";

fn sd15() -> Architecture {
    Architecture {
        text_encoder: json!({
            "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_act": "quick_gelu",
            "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
            "layer_norm_eps": 1e-5, "max_position_embeddings": 77, "projection_dim": 768, "vocab_size": 49408,
        }),
        unet: merged(
            unet(),
            json!({ "attention_head_dim": 8, "cross_attention_dim": 768, "sample_size": 64, "use_linear_projection": false }),
        ),
        vae: vae(512),
        scheduler: scheduler("epsilon"),
    }
}

fn sd21() -> Architecture {
    Architecture {
        text_encoder: json!({
            "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_act": "gelu",
            "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23,
            "layer_norm_eps": 1e-5, "max_position_embeddings": 77, "projection_dim": 512, "vocab_size": 49408,
        }),
        unet: merged(
            unet(),
            json!({
                "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "sample_size": 96,
                "upcast_attention": true, "use_linear_projection": true,
            }),
        ),
        vae: vae(768),
        scheduler: scheduler("v_prediction"),
    }
}

/// What the UNets of both have in common.
fn unet() -> Value {
    json!({
        "_class_name": "UNet2DConditionModel", "_diffusers_version": DIFFUSERS, "act_fn": "silu",
        "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
        "mid_block_scale_factor": 1, "norm_eps": 1e-5, "norm_num_groups": 32, "out_channels": 4,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    })
}

/// The autoencoder of both; `side` in pixels.
fn vae(side: usize) -> Value {
    json!({
        "_class_name": "AutoencoderKL", "_diffusers_version": DIFFUSERS, "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512], "down_block_types": (["DownEncoderBlock2D"; 4]), "in_channels": 3,
        "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3, "sample_size": side,
        "scaling_factor": 0.18215, "up_block_types": (["UpDecoderBlock2D"; 4]),
    })
}

fn scheduler(prediction: &str) -> Value {
    json!({
        "_class_name": "DDIMScheduler", "_diffusers_version": DIFFUSERS, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "clip_sample": false, "num_train_timesteps": 1000, "prediction_type": prediction,
        "set_alpha_to_one": false, "steps_offset": 1, "trained_betas": null,
    })
}

/// `base` with the keys of `more`; both are objects.
fn merged(mut base: Value, more: Value) -> Value {
    if let (Value::Object(base), Value::Object(more)) = (&mut base, more) {
        base.extend(more);
    }
    base
}
