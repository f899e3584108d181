"""Goldens of the training schedule and of the samplers. `schedules.json` has the cases, two safetensors files the numbers.

`schedule.safetensors`, for each config NAME of `schedules.json` `training`: clean noise(20, 5, 2, 3, 3), noise noise(21, …),
timesteps [0, 1, 250, 731, 999]:

| tensor | shape | what it is |
|---|---|---|
| `NAME.noisy` | (5, 2, 3, 3) | add_noise |
| `NAME.velocity` | (5, 2, 3, 3) | get_velocity |

`samplers.safetensors`, for each case NAME of `schedules.json` `samplers` ({name, sampler, steps, config, init_noise_sigma}), a whole
run of diffusers' scheduler of that kind, built by from_config(config) with clip_sample off:

| tensor | shape | what it is |
|---|---|---|
| `NAME.timesteps` | (steps,) | the timesteps, f32 |
| `NAME.samples` | (steps, 1, 2, 3, 3) | the sample after every step |

The run begins at init_noise_sigma · noise(30, 1, 2, 3, 3). The model's output is 0.8 input + 0.2 sin(3 input) + 0.1 cos(t / 200), where input is
scale_model_input(sample); ancestral noise of step i is noise(3000 + i, 1, 2, 3, 3).
"""

import json

import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerAncestralDiscreteScheduler, UniPCMultistepScheduler
from diffusers.schedulers import scheduling_euler_ancestral_discrete as euler
from safetensors.torch import save_file

from inputs import noise

KINDS = dict(ddim=DDIMScheduler, euler_ancestral=EulerAncestralDiscreteScheduler, unipc=UniPCMultistepScheduler)
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
AVATAR = SD | dict(prediction_type="v_prediction", timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False)
TRAINING = {
    "scaled_linear": SD | dict(prediction_type="v_prediction"),
    "linear": dict(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", num_train_timesteps=1000, prediction_type="epsilon"),
}


def cases():
    """Every sampler: both predictions at 10 and 25 steps, then every spacing, then a file that says almost nothing."""
    for kind in KINDS:
        for prediction in ("epsilon", "v_prediction"):
            for steps in (10, 25):
                yield f"{kind}.{prediction}.{steps}", kind, steps, AVATAR | dict(prediction_type=prediction)
        for spacing in ("leading", "trailing", "linspace"):
            for steps in (1, 7):
                config = AVATAR | dict(timestep_spacing=spacing, set_alpha_to_one=True, steps_offset=0)
                yield f"{kind}.{spacing}.{steps}", kind, steps, config
        yield f"{kind}.sd15", kind, 12, SD | dict(set_alpha_to_one=False, steps_offset=1, skip_prk_steps=True)
        yield f"{kind}.default", kind, 5, dict(beta_schedule="linear")


def model(sample, t):
    return 0.8 * sample + 0.2 * torch.sin(3 * sample) + 0.1 * torch.cos(t / 200)


def run(kind, steps, config):
    scheduler = KINDS[kind].from_config(config | (dict(clip_sample=False) if kind == "ddim" else {}))
    scheduler.set_timesteps(steps)
    sigma = float(scheduler.init_noise_sigma)
    sample, samples = noise(30, 1, 2, 3, 3) * sigma, []
    for i, t in enumerate(scheduler.timesteps):
        euler.randn_tensor = lambda *_, **__: noise(3000 + i, 1, 2, 3, 3)
        sample = scheduler.step(model(scheduler.scale_model_input(sample, t), t), t, sample).prev_sample
        samples.append(sample)
    return scheduler.timesteps.float(), torch.stack(samples), sigma


def main(here):
    numbers, timesteps = {}, torch.tensor([0, 1, 250, 731, 999])
    clean, eps = noise(20, 5, 2, 3, 3), noise(21, 5, 2, 3, 3)
    for name, config in TRAINING.items():
        schedule = DDPMScheduler.from_config(config)
        numbers[f"{name}.noisy"] = schedule.add_noise(clean, eps, timesteps)
        numbers[f"{name}.velocity"] = schedule.get_velocity(clean, eps, timesteps)
    save_file(numbers, here / "schedule.safetensors")

    numbers, listed = {}, []
    for name, kind, steps, config in cases():
        numbers[f"{name}.timesteps"], numbers[f"{name}.samples"], sigma = run(kind, steps, config)
        listed.append(dict(name=name, sampler=kind, steps=steps, init_noise_sigma=sigma, config=config))
    save_file(numbers, here / "samplers.safetensors")
    rows = ",\n".join(json.dumps(case) for case in listed)
    training = ",\n".join(f'"{name}": {json.dumps(config)}' for name, config in TRAINING.items())
    (here / "schedules.json").write_text(f'{{"training": {{\n{training}\n}}, "samplers": [\n{rows}\n]}}\n')
