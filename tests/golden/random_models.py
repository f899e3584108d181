"""Two tiny Stable Diffusion directories with random weights, written the way the real SD 1.5 and SD 2.1 repositories are.

sd15-like (fp16): quick_gelu, conv projections, epsilon, `attention_head_dim` an int, three levels, and what old files have:
few keys in the configs, VAE attention named query/key/value/proj_attn, a `position_ids` tensor in the text encoder, a PNDM
scheduler config. sd2-like (bf16): gelu, linear projections, v-prediction, heads as a list, two layers a block, pad token "!".
"""

import json

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

WORDS = ["a", "photo", "of", "person", "portrait", "the", "in", "red", "dog", "with", "'s"]
START, END = "<|startoftext|>", "<|endoftext|>"

SD15 = {
    "text": dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, hidden_act="quick_gelu"),
    "unet": dict(
        act_fn="silu", attention_head_dim=2, block_out_channels=[4, 8, 8], center_input_sample=False, cross_attention_dim=16,
        down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"], downsample_padding=1,
        flip_sin_to_cos=True, freq_shift=0, in_channels=4, layers_per_block=1, mid_block_scale_factor=1, norm_eps=1e-05,
        norm_num_groups=2, out_channels=4, sample_size=8,
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]),
    "vae": dict(
        act_fn="silu", block_out_channels=[4, 8], down_block_types=["DownEncoderBlock2D"] * 2, in_channels=3, latent_channels=4,
        layers_per_block=1, norm_num_groups=2, out_channels=3, sample_size=16, up_block_types=["UpDecoderBlock2D"] * 2),
    "scheduler": dict(
        _class_name="PNDMScheduler", _diffusers_version="0.6.0", beta_end=0.012, beta_schedule="scaled_linear",
        beta_start=0.00085, num_train_timesteps=1000, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1,
        trained_betas=None, clip_sample=False),
}
SD2 = {
    "text": dict(hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4, hidden_act="gelu"),
    "unet": dict(
        act_fn="silu", attention_head_dim=[1, 2], block_out_channels=[4, 8], center_input_sample=False, cross_attention_dim=16,
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], downsample_padding=1, dual_cross_attention=False,
        flip_sin_to_cos=True, freq_shift=0, in_channels=4, layers_per_block=2, mid_block_scale_factor=1, norm_eps=1e-05,
        norm_num_groups=2, num_class_embeds=None, only_cross_attention=False, out_channels=4, sample_size=8,
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"], upcast_attention=True, use_linear_projection=True),
    "vae": dict(
        act_fn="silu", block_out_channels=[4, 4, 8], down_block_types=["DownEncoderBlock2D"] * 3, in_channels=3,
        latent_channels=4, layers_per_block=1, norm_num_groups=2, out_channels=3, sample_size=32, scaling_factor=0.2,
        up_block_types=["UpDecoderBlock2D"] * 3),
    "scheduler": dict(
        _class_name="DDIMScheduler", _diffusers_version="0.8.0", beta_end=0.012, beta_schedule="scaled_linear",
        beta_start=0.00085, clip_sample=False, num_train_timesteps=1000, prediction_type="v_prediction",
        set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, trained_betas=None),
}


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_tokenizer(folder, old_pad):
    """A byte-level CLIP vocabulary that knows a few words, in the special-token layout of SD 1.5 (or, `old_pad`, SD 2.1)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    base = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    merges = []
    for word in WORDS:
        symbols = [*word[:-1], word[-1] + "</w>"]
        for i in range(1, len(symbols)):
            merges.append(("".join(symbols[:i]), symbols[i]))
    merges = list(dict.fromkeys(merges))
    tokens = list(dict.fromkeys(base + [b + "</w>" for b in base] + ["".join(pair) for pair in merges] + [START, END]))
    added = lambda content: dict(content=content, lstrip=False, normalized=True, rstrip=False, single_word=False)
    special = dict(bos_token=added(START), eos_token=added(END), pad_token="!" if old_pad else END, unk_token=added(END))
    config = dict(
        add_prefix_space=False, do_lower_case=True, errors="replace", model_max_length=77, pad_token=END,
        special_tokens_map_file="./special_tokens_map.json", tokenizer_class="CLIPTokenizer",
        **{key: {"__type": "AddedToken", **added(START if key == "bos_token" else END)}
           for key in ("bos_token", "eos_token", "unk_token")})
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", special)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False, separators=(",", ":")))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return len(tokens)


def randomise(module, seed):
    """Every parameter random, norms and biases too, so that none of them can be forgotten unnoticed."""
    rng = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        draw = torch.randn(p.shape, generator=rng)
        if p.dim() == 1:
            p.data = (1.0 if name.endswith("weight") else 0.0) + 0.2 * draw
        elif "embedding" in name and "time" not in name:
            p.data = 0.3 * draw
        else:
            p.data = draw / p[0].numel() ** 0.5
    return module


def save(model, folder, seed, dtype, config, drop):
    """Weights by diffusers itself; the config as old files have it, without the keys that later versions added."""
    randomise(model, seed).to(dtype).save_pretrained(folder)
    full = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {k: v for k, v in full.items() if not drop or k in config or k.startswith("_")})


def rename(file, names=None, extra=None):
    """Rewrites a weight file with some tensors renamed and some added."""
    renamed = {}
    for key, tensor in load_file(file).items():
        for new, old in (names or {}).items():
            key = key.replace(new, old)
        renamed[key] = tensor
    save_file({**renamed, **(extra or {})}, file, metadata={"format": "pt"})


def write(root, spec, seed, dtype, sd2):
    """One whole model directory."""
    vocabulary = write_tokenizer(root / "tokenizer", old_pad=sd2)
    text = dict(vocab_size=vocabulary, max_position_embeddings=77, projection_dim=16, **spec["text"])
    randomise(CLIPTextModel(CLIPTextConfig(**text)), seed).to(dtype).save_pretrained(root / "text_encoder")
    rename(root / "text_encoder/model.safetensors", extra={"text_model.embeddings.position_ids": torch.arange(77)[None]})
    save(UNet2DConditionModel(**spec["unet"]), root / "unet", seed + 1, dtype, spec["unet"], drop=True)
    save(AutoencoderKL(**spec["vae"]), root / "vae", seed + 2, dtype, spec["vae"], drop=True)
    if not sd2:
        old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
        rename(root / "vae/diffusion_pytorch_model.safetensors", names=old)
    write_json(root / "scheduler/scheduler_config.json", spec["scheduler"])
    kinds = dict(scheduler=("diffusers", spec["scheduler"]["_class_name"]), text_encoder=("transformers", "CLIPTextModel"),
                 tokenizer=("transformers", "CLIPTokenizer"), unet=("diffusers", "UNet2DConditionModel"),
                 vae=("diffusers", "AutoencoderKL"))
    none = {"feature_extractor": (None, None), "safety_checker": (None, None)}
    write_json(root / "model_index.json", {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.35.2",
                                           "requires_safety_checker": False, **kinds, **none})


def main(here):
    write(here / "sd15-like", SD15, seed=15, dtype=torch.float16, sd2=False)
    write(here / "sd2-like", SD2, seed=21, dtype=torch.bfloat16, sd2=True)
