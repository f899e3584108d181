#!/usr/bin/env python3
"""The same image in diffusers and in Likeness: same model, same embedding file, same initial latents, at most 3/255 apart in any pixel.

    python3 same_image.py [--likeness target/release/likeness] [--model models/avatar-tiny] [--embedding FILE]... [--keep DIR]

Each embedding file is loaded with `load_textual_inversion` and given to `likeness render`; several prompts, negative prompts, step
counts, guidance scales, sizes and both deterministic schedulers are drawn. Without --embedding two files are learned first, from
photos of two bundled subjects, with one and with two vectors (about a minute; their header says nothing of Likeness, so this also
shows that a file of another program renders). A file with several vectors needs nothing special: diffusers' pipeline itself turns
`<token>` into `<token> <token>_1 …` (maybe_convert_prompt), which is what the slots of our placeholder are.

One line a picture goes to stdout: largest and mean difference, of 255. Exit status 1 if any picture differs by more than 3.
Needs tests/golden/requirements.txt and pillow.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UniPCMultistepScheduler
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCHEDULERS = dict(ddim=DDIMScheduler, unipc=UniPCMultistepScheduler)
LIMIT = 3

DEFAULT = dict(prompt="a photo of {}", negative="", steps=20, guidance=4.0, scheduler="ddim", size=None)
SHOTS = [DEFAULT | changes for changes in (
    {},
    dict(prompt="a photo of {} at the beach, wearing sunglasses"),
    dict(prompt="a pencil sketch of {}", steps=30, guidance=7.5),
    dict(prompt="pixel art of {}, on a red background", negative="a photo, blurry"),
    dict(prompt="{} and {}, in the mountains", guidance=1.0),
    dict(prompt="a photo of a person"),
    dict(prompt="a sepia photo of {}!", scheduler="unipc", steps=12),
    dict(prompt="A PHOTO of {}'s face,   smiling", size=160),
)]


def learned(model, folder):
    """Two embedding files by PyTorch: subject 1 with one vector, subject 2 with two."""
    sys.path.insert(0, str(ROOT / "models/avatar-tiny/training"))
    import invert

    for subject, vectors in ((1, 1), (2, 2)):
        torch.manual_seed(subject)
        it = invert.Inversion(model, vectors)
        paths = sorted((ROOT / f"models/avatar-tiny/subjects/subject-{subject:02}").glob("*.png"))
        photos = torch.stack([torch.from_numpy(np.array(Image.open(p).convert("RGB"))).permute(2, 0, 1) / 127.5 - 1 for p in paths])
        with torch.no_grad():
            latents = it.vae.encode(photos).latent_dist.mean * it.vae.config.scaling_factor
        rows, _ = invert.train(it, latents, "dti", steps=60, batch=4, lr=0.05, every=60)
        file = folder / f"subject-{subject:02}.safetensors"
        save_file({f"<subject-{subject}>": rows.detach().contiguous()}, file)
        yield file


def token_of(file):
    with safe_open(file, "pt") as tensors:
        (token,) = tensors.keys()
        return token, tensors.get_tensor(token).shape[0]


def theirs(pipe, shot, latents, side):
    pipe.scheduler = SCHEDULERS[shot["scheduler"]].from_config(pipe.scheduler.config)
    image = pipe(
        shot["prompt"], negative_prompt=shot["negative"], num_inference_steps=shot["steps"], guidance_scale=shot["guidance"],
        height=side, width=side, latents=latents.clone(), output_type="pil").images[0]
    return np.array(image.convert("RGB")).astype(int)


def ours(args, file, shot, latents, side, out):
    first = out.with_suffix(".safetensors")
    save_file({"latents": latents}, first)
    flags = [f"--{name}={shot[name]}" for name in ("prompt", "negative", "steps", "guidance", "scheduler")]
    command = [args.likeness, "render", "--model", args.model, "--embedding", file, "--seed=0", *flags,
               f"--size={side}", "--latents", first, "--out", out]
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)
    return np.array(Image.open(out).convert("RGB")).astype(int)


def compare(args, file, folder):
    """The largest difference of each shot."""
    pipe = StableDiffusionPipeline.from_pretrained(args.model, torch_dtype=torch.float32, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_textual_inversion(file)
    token, vectors = token_of(file)
    print(f"{file.name}: {token}, {vectors} vector{'s' * (vectors > 1)}")
    for i, shot in enumerate(SHOTS):
        shot = shot | dict(prompt=shot["prompt"].replace("{}", token))
        side = shot["size"] or pipe.unet.config.sample_size * pipe.vae_scale_factor
        shape = (1, pipe.unet.config.in_channels, side // pipe.vae_scale_factor, side // pipe.vae_scale_factor)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(i))
        out = folder / f"{file.stem}-{i}.png"
        expected = theirs(pipe, shot, latents, side)
        Image.fromarray(expected.astype(np.uint8)).save(out.with_suffix(".peer.png"))
        difference = np.abs(ours(args, file, shot, latents, side, out) - expected)
        settings = f"{shot['scheduler']}, {shot['steps']} steps, guidance {shot['guidance']}, {side} px"
        print(f"  max {difference.max():3} mean {difference.mean():.4f}  {settings}: {shot['prompt']}", flush=True)
        yield difference.max()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--likeness", default=ROOT / "target/release/likeness", type=pathlib.Path)
    parser.add_argument("--model", default=ROOT / "models/avatar-tiny", type=pathlib.Path)
    parser.add_argument("--embedding", action="append", type=pathlib.Path, default=[])
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the pictures and the learned files")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or pathlib.Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        files = args.embedding or list(learned(args.model, folder))
        worst = [difference for file in files for difference in compare(args, file, folder)]
    print(f"{len(worst)} pictures, largest difference {max(worst)} of 255, allowed {LIMIT}")
    return int(max(worst) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
