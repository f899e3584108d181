"""Makes every golden of this folder again, with the versions pinned in requirements.txt (Python 3.12, CPU, f32).

    python make.py [random_models] [neural] [ops] [schedules] [tokens]

| part | writes | documented in |
|---|---|---|
| random_models | `sd15-like/`, `sd2-like/`: two tiny random model directories | random_models.py |
| neural | `avatar-tiny`, `sd15-like`, `sd2-like` `.safetensors`, `neural.json` | neural.py |
| ops | `ops.safetensors`, `ops.json` | ops.py |
| schedules | `schedule.safetensors`, `samplers.safetensors`, `schedules.json` | schedules.py |
| tokens | `tokens.json` | tokens.py |
"""

import pathlib
import sys

import torch

import neural
import ops
import random_models
import schedules
import tokens

HERE = pathlib.Path(__file__).resolve().parent
MODELS = {
    "avatar-tiny": HERE.parents[1] / "models" / "avatar-tiny",
    "sd15-like": HERE / "sd15-like",
    "sd2-like": HERE / "sd2-like",
}


def main():
    torch.set_num_threads(1)  # one thread: the same sums in the same order on every machine
    parts = sys.argv[1:] or ["random_models", "neural", "ops", "schedules", "tokens"]
    if "random_models" in parts:
        random_models.main(HERE)
    if "neural" in parts:
        neural.main(HERE, MODELS)
    if "ops" in parts:
        ops.main(HERE)
    if "schedules" in parts:
        schedules.main(HERE)
    if "tokens" in parts:
        tokens.main(HERE, MODELS)
    for file in HERE.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes 0600


if __name__ == "__main__":
    main()
