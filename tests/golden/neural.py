"""Goldens of the frozen network: text encoder, UNet, VAE, loss and gradients, a short textual inversion. f32 on the CPU.

One file per model, `NAME.safetensors`; its prompts and settings are in `neural.json`. Inputs that are not in the file come from
`inputs.noise(seed, *shape)`. b = 2, d = text width, c/h/w = the UNet's latents (`sample_size`), f = the VAE's factor.

| tensor | shape | what it is |
|---|---|---|
| `ids` | (2, 77) i64 | token ids of `neural.json` `plain` |
| `context` | (2, 20, d) | the text encoder's last hidden state of `ids`, every fourth position (0, 4, … 76) |
| `context.penultimate` | (2, 20, d) | final_layer_norm of the last but one hidden state (clip skip 1), same positions |
| `learned` | (2, d) | two learned rows: mean of the rows of `neural.json` `init` + 0.1 · std(table) · noise(1, 2, d) |
| `learned.ids` | (2, 77) i64 | ids of `neural.json` `learned`, where each `<subject>` is two slots; slot k holds vocab_size + k |
| `learned.context` | (2, 20, d) | the text encoder with `learned` at those slots, same positions |
| `unet` | (2, c, h, w) | UNet of latents noise(2, 2, c, h, w), timesteps [7, 801], context noise(3, 2, 77, d) |
| `unet.wide` | (1, c, h, 2h) | the same UNet on latents noise(4, 1, c, h, 2h), timestep [333], context noise(5, 1, 77, d); every other row and column |
| `vae.encoded` | (1, c, h, w) | latent_dist.mean · scaling_factor of pixels: noise(6, 1, 3, h, w)/√3, repeated f times in rows and columns |
| `vae.decoded` | (1, 3, …) | decode(noise(7, 1, c, h, w) / scaling_factor), every fifth row and column (0, 5, …) |
| `vae.tiled` | (1, 3, …) | tiled_decode(noise(10, 1, c, h + 5, 2w + 3) / scaling_factor), its tiles (h, w) as the VAE's `sample_size` says; every fifth row and column |
| `loss` | () | mean squared error to the schedule's target: clean noise(8, 2, c, h, w), noise noise(9, …), timesteps [150, 720], prompts `learned` |
| `grad.learned` | (2, d) | gradient of `loss` with respect to `learned` |
| `grad.context` | (2, 20, d) | gradient of `loss` with respect to the context, every fourth position |
| `run.losses` | (20,) | textual inversion: the loss of every step, before its update |
| `run.learned` | (2, d) | the rows after the 20 steps |

The run: rows start at `learned`; AdamW lr 0.01, betas (0.9, 0.999), eps 1e-8, weight decay 0.01; batch 2; in step s (from 0) clean is
noise(1000 + s, 2, c, h, w), noise is noise(2000 + s, …), timesteps are `neural.json` `run.timesteps[s]`, and sample i has
prompt `run.prompts[(2 s + i) mod 3]`.
"""

import json

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from inputs import noise

PLACEHOLDER, SLOTS = "<subject>", ["<subject>", "<subject>_1"]
PLAIN = ["a photo of a person, smiling", ""]
LEARNED = ["a photo of <subject>", "<subject> in the red, with a portrait of <subject>"]
TEMPLATES = ["a photo of <subject>", "a portrait of <subject>", "the <subject>"]
INIT, STEPS = "person", 20
TIMESTEPS = [[(37 * s + 5) % 1000, (991 - 53 * s) % 1000] for s in range(STEPS)]


class Model:
    """A model directory in f32, with two placeholder tokens after its vocabulary."""

    def __init__(self, folder):
        frozen = lambda kind, part: kind.from_pretrained(folder / part, torch_dtype=torch.float32).requires_grad_(False).eval()
        self.text, self.vae = frozen(CLIPTextModel, "text_encoder"), frozen(AutoencoderKL, "vae")
        self.unet = frozen(UNet2DConditionModel, "unet")
        self.schedule = DDPMScheduler.from_pretrained(folder / "scheduler")
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.table = self.text.get_input_embeddings().weight.detach().clone()
        self.tokenizer.add_tokens(SLOTS)
        self.latents = (self.unet.config.in_channels, self.unet.config.sample_size, self.unet.config.sample_size)

    def ids(self, prompts):
        prompts = [p.replace(PLACEHOLDER, " ".join(SLOTS)) for p in prompts]
        return self.tokenizer(prompts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids

    def encode(self, ids, learned=None, **options):
        """The text encoder with its token table followed by the learned rows."""
        table = self.table if learned is None else torch.cat([self.table, learned])
        weights = {**dict(self.text.named_parameters()), "text_model.embeddings.token_embedding.weight": table}
        return torch.func.functional_call(self.text, weights, (ids,), options)

    def loss(self, clean, eps, timesteps, context):
        noisy = self.schedule.add_noise(clean, eps, timesteps)
        velocity = self.schedule.config.prediction_type == "v_prediction"
        target = self.schedule.get_velocity(clean, eps, timesteps) if velocity else eps
        return F.mse_loss(self.unet(noisy, timesteps, context).sample, target)


def text(model, learned):
    ids, learned_ids = model.ids(PLAIN), model.ids(LEARNED)
    plain = model.encode(ids, output_hidden_states=True)
    penultimate = model.text.text_model.final_layer_norm(plain.hidden_states[-2])
    return {
        "ids": ids, "context": plain[0][:, ::4], "context.penultimate": penultimate[:, ::4], "learned": learned,
        "learned.ids": learned_ids, "learned.context": model.encode(learned_ids, learned)[0][:, ::4],
    }


def unet(model, d):
    c, h, w = model.latents
    wide = model.unet(noise(4, 1, c, h, 2 * w), torch.tensor([333]), noise(5, 1, 77, d)).sample
    return {
        "unet": model.unet(noise(2, 2, c, h, w), torch.tensor([7, 801]), noise(3, 2, 77, d)).sample,
        "unet.wide": wide[:, :, ::2, ::2],
    }


def vae(model):
    c, h, w = model.latents
    factor, scale = 2 ** (len(model.vae.config.block_out_channels) - 1), model.vae.config.scaling_factor
    pixels = (noise(6, 1, 3, h, w) / 3**0.5).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return {
        "vae.encoded": model.vae.encode(pixels).latent_dist.mean * scale,
        "vae.decoded": model.vae.decode(noise(7, 1, c, h, w) / scale).sample[:, :, ::5, ::5],
        "vae.tiled": model.vae.tiled_decode(noise(10, 1, c, h + 5, 2 * w + 3) / scale).sample[:, :, ::5, ::5],
    }


def gradients(model, learned):
    learned = learned.clone().requires_grad_(True)
    context = model.encode(model.ids(LEARNED), learned)[0]
    context.retain_grad()
    loss = model.loss(noise(8, 2, *model.latents), noise(9, 2, *model.latents), torch.tensor([150, 720]), context)
    loss.backward()
    return {"loss": loss.detach(), "grad.learned": learned.grad, "grad.context": context.grad[:, ::4]}


def run(model, learned):
    learned = learned.clone().requires_grad_(True)
    optimiser = torch.optim.AdamW([learned], lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses = []
    for s in range(STEPS):
        ids = model.ids([TEMPLATES[(2 * s + i) % 3] for i in range(2)])
        clean, eps = noise(1000 + s, 2, *model.latents), noise(2000 + s, 2, *model.latents)
        loss = model.loss(clean, eps, torch.tensor(TIMESTEPS[s]), model.encode(ids, learned)[0])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return {"run.losses": torch.tensor(losses), "run.learned": learned.detach()}


def main(here, models):
    facts = dict(placeholder=PLACEHOLDER, plain=PLAIN, learned=LEARNED, init=INIT,
                 run=dict(prompts=TEMPLATES, timesteps=TIMESTEPS))
    (here / "neural.json").write_text(json.dumps(facts, indent=1) + "\n")
    for name, folder in models.items():
        model = Model(folder)
        d = model.table.shape[1]
        start = model.table[model.tokenizer.encode(INIT, add_special_tokens=False)].mean(0)
        learned = start + 0.1 * model.table.std() * noise(1, 2, d)
        with torch.no_grad():
            golden = {**text(model, learned), **unet(model, d), **vae(model)}
        golden |= gradients(model, learned) | run(model, learned)
        save_file({k: v.detach().contiguous() for k, v in golden.items()}, here / f"{name}.safetensors")
