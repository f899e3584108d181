#!/usr/bin/env bash
# Runs everything that needs NVIDIA GPUs with a binary that was built elsewhere, and prints one JSON report.
# Needs a driver, and the libraries the binary was linked with (see deploy/check-cuda.sh); no Rust, no network. The peer
# (tests/peer/peer.py) runs beside it where python3 has torch and diffusers, and is left out of the report otherwise.
# Usage: deploy/gpu-smoke.sh BINARY [FOLDER] > benchmarks/NAME.json    FOLDER takes the models, 4 GB
# TESTS names the test binary that `cargo test --release -p likeness-trainer --lib --features nccl --no-run` makes: what every way of making sums must do.
# MODELS and BATCHES may be set to do less: MODELS="avatar-tiny" BATCHES="1" deploy/gpu-smoke.sh …
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
binary=$(realpath "${1:?usage: gpu-smoke.sh BINARY [FOLDER]}")
work=$(realpath "${2:-$(mktemp -d)}")
export LIKENESS__STATE="$work/state"
cd "$root"
exec python3 - "$binary" "$work" <<'PY'
import json, os, pathlib, shutil, subprocess, sys

binary, work = sys.argv[1], pathlib.Path(sys.argv[2])
tiny, images = "models/avatar-tiny", "models/avatar-tiny/subjects/subject-01"
report = {"commands": [], "proven": [], "unproven": [], "failed": []}
LIMIT = 1800  # seconds a command may take; a report comes whatever hangs


def run(*command, **settings):
    """The JSON object that a command prints; none, and why in the report, if it fails."""
    command = [str(part) for part in command]
    print(" ".join(command), file=sys.stderr, flush=True)
    entry = {"command": " ".join([f"{key}={value}" for key, value in settings.items()] + command)}
    report["commands"].append(entry)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=LIMIT,
                              env={**os.environ, **{key: str(value) for key, value in settings.items()}})
    except subprocess.TimeoutExpired:
        entry["error"] = f"no end within {LIMIT} s"
        return None
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        entry["error"] = (done.stderr.strip() or f"exit code {done.returncode}")[-2000:]
        return None
    try:
        entry["result"] = json.loads(lines[-1] if lines[-1].startswith("{") else done.stdout)
    except json.JSONDecodeError as error:
        entry["error"] = f"what it printed is not JSON ({error}): {done.stdout[-2000:]}"
    return entry.get("result")


def judge(what, held, why=""):
    report["proven" if held else "failed"].append(what if held else f"{what}: {why}")


def smi(query):
    if not shutil.which("nvidia-smi"):
        return []
    done = subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


gpus = smi("name")
report["gpus"], report["driver"] = gpus, (smi("driver_version") or ["none"])[0]
report["version"] = run(binary, "version", "--json")
doctor = run(binary, "doctor", "--json", "--device", "cuda")
judge("doctor finds the GPUs", bool(doctor) and any(c["name"] == "cuda" and c["ok"] for c in doctor["checks"]), "see commands")

# The same gradient and the same picture as on the CPU.
for precision, gradient, loss in [("f32", 2e-3, 1e-4), ("bf16", 0.15, 2e-2)]:
    got = run(binary, "bench", "parity", "--model", tiny, "--images", images, "--device", "cuda", "--precision", precision)
    held = bool(got) and got["gradient_gap"] <= gradient and got["loss_gap"] <= loss
    judge(f"parity of {precision} with the CPU (gradient within {gradient}, loss within {loss})", held, got or "it failed")

# What every way of making sums must do, of NCCL.
if os.environ.get("TESTS"):
    suite = [os.environ["TESTS"], "--ignored", "--test-threads=1", "--nocapture", "conformance"]
    try:
        done = subprocess.run(suite, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT)
        output, ran = done.stdout, done.returncode == 0 and " 0 passed" not in done.stdout
    except subprocess.TimeoutExpired as hung:
        output, ran = (hung.stdout or b"").decode(errors="replace") + f"\nno end within {LIMIT} s", False
    report["commands"].append({"command": " ".join(suite), "result": output.splitlines()[-1:]})
    judge("NCCL does what every backend must", ran, output[-4000:])
    report["unproven"] += sorted({line for line in output.splitlines() if "NOT TESTED" in line})
else:
    report["unproven"].append("that NCCL does what every backend must: TESTS names no test binary")

# Sums over all GPUs, and over one too few to prove anything.
for ranks in sorted({2 ** i for i in range(8) if 2 ** i <= len(gpus)} | {len(gpus)} - {0}):
    for size in [3072, 65536, 3 << 20]:
        got = run(binary, "bench", "all-reduce", "--backend", "nccl", "--ranks", ranks, "--bytes", size, "--device", "cuda")
        if ranks > 1:
            judge(f"NCCL sums of {size} bytes over {ranks} GPUs", bool(got), "see commands")
if len(gpus) < 2:
    report["unproven"].append(f"the all-reduce between GPUs: this machine has {len(gpus)}")

# Speed beside the peer's on the same GPU, at the size of Stable Diffusion 1.5.
models = os.environ.get("MODELS", "avatar-tiny sd15").split()
if "sd15" in models and not (work / "sd15" / "unet").exists():
    run(binary, "bench", "make-model", "--arch", "sd15", "--dtype", "fp16", "--out", work / "sd15")
peer = subprocess.run([sys.executable, "-c", "import torch, diffusers; assert torch.cuda.is_available()"], capture_output=True)
report["peer"] = peer.returncode == 0
if not report["peer"]:
    report["unproven"].append("the peer's speed on this GPU: python3 has no torch with CUDA, or no diffusers")
table = report["table"] = []
for model in models:
    folder, size = (tiny, 128) if model == "avatar-tiny" else (work / model, 512)
    for batch in os.environ.get("BATCHES", "1 4 16").split():
        for precision in ["bf16", "f32"]:
            common = ["train", "--model", folder, "--images", images, "--batch", batch, "--size", size, "--steps", "20"]
            ours = run(binary, "bench", *common, "--device", "cuda", "--precision", precision)
            row = {"model": model, "batch": int(batch), "precision": precision, "ranks": 1}
            row["ours_steps_per_second"] = ours and 1 / ours["seconds_per_step"]
            if report["peer"]:
                theirs = run(sys.executable, "tests/peer/peer.py", *common, "--device", "cuda", "--dtype", {"f32": "fp32"}.get(precision, precision))
                row["peer_steps_per_second"] = theirs and 1 / theirs["seconds_per_step"]
                if ours and theirs:
                    row["ratio_of_time"] = ours["seconds_per_step"] / theirs["seconds_per_step"]
                    row["peer_peak_mib"] = theirs["peak_mib"]
                    judge(f"{model}, batch {batch}, {precision}: a step no slower than the peer's", row["ratio_of_time"] <= 1,
                          f"{row['ratio_of_time']:.2f} of its time")
            row["ours_peak_mib"] = ours and ours.get("gpu_peak_mib")
            table.append(row)
            # The same step's samples over more GPUs; the peer has one.
            for ranks in range(2, len(gpus) + 1):
                split = run(binary, "bench", *common, "--device", "cuda", "--precision", precision, LIKENESS__RANKS=ranks)
                rate = split and 1 / split["seconds_per_step"]
                table.append({"model": model, "batch": int(batch), "precision": precision, "ranks": ranks, "ours_steps_per_second": rate})
    pack = run(binary, "bench", "pack", "--model", folder, "--subjects", "8", "--batch", "2", "--steps", "50", "--device", "cuda", "--precision", "bf16")
    gain = pack["gain"] if pack else 0
    judge(f"packing, {model}: 3 times the subjects per minute of one by one", gain >= 3, f"{gain:.2f} times")
print(json.dumps(report, indent=1))
sys.exit(1 if report["failed"] else 0)
PY
