#!/usr/bin/env python3
"""Ours and the peer on the same work, in turn, in pairs: a Markdown table of time and peak memory.

    cargo build --release
    target/release/likeness bench make-model --arch sd15 --dtype fp32 --out DIR
    python3 tests/peer/compare.py --sd15 DIR [--rounds 3] [--cases NAME …] [--compile]

Every run is a process of its own, one after the other: ours, peer, ours, peer, …; a ratio is ours / peer's of one such pair, so
that what slows the machine down for a while slows both. Below 1 is better. Each cell has the median over the pairs; the spread is
the smallest and the largest ratio. With --compile each round has a third run, of the peer at its best. Measure on a machine that
does nothing else. Needs what peer.py needs.
"""
import argparse, json, os, pathlib, platform, statistics, subprocess, sys
from importlib.metadata import version

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEER = [sys.executable, ROOT / "tests/peer/peer.py"]
BUSY = 0.5  # a load average above it spoils the figures

# Name, which model, work, arguments that ours and the peer take alike. SD 1.5 has 8 pixels a latent along a side.
CASES = {
    "sd15-train-32": ("sd15", "train", "--batch=1 --size=256 --steps=5 --warmup=1"),
    "sd15-train-64": ("sd15", "train", "--batch=1 --size=512 --steps=3 --warmup=1"),
    "sd15-train-64-checkpointing": ("sd15", "train", "--batch=1 --size=512 --steps=3 --warmup=1 --checkpointing"),
    "tiny-train-8": ("tiny", "train", "--batch=8 --steps=20 --warmup=2"),
    "sd15-render-32": ("sd15", "render", "--images-per-batch=1 --size=256 --steps=10 --repeats=2"),
    "tiny-render-8": ("tiny", "render", "--images-per-batch=8 --steps=20 --repeats=2"),
}
SECONDS = {"train": "seconds_per_step", "render": "seconds_per_image"}


def run(command, args, case, extra=()):
    """One process's JSON object."""
    kind, work, options = CASES[case]
    images = ["--images", args.images] if work == "train" else []
    model = ["--model", getattr(args, kind), "--threads", args.threads]
    command = [str(part) for part in [*command, work, *model, *images, *options.split(), *extra]]
    print("  " + " ".join(command), file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{case}: exit code {done.returncode} of {' '.join(command)}")
    return json.loads(done.stdout.splitlines()[-1])


def rounds(args, case):
    """The runs of a case: a list for each who runs, in the same order."""
    who = {"ours": ([args.likeness, "bench"], ()), "peer": (PEER, ())}
    if args.compile:
        who["compiled"] = (PEER, ("--compile",))
    runs = {name: [] for name in who}
    for _ in range(args.rounds):
        for name, (command, extra) in who.items():
            runs[name].append(run(command, args, case, extra))
    return runs


def cells(runs, other, key):
    """Median of ours, of the other's, and of the paired ratios with its spread."""
    pairs = [(ours[key], theirs[key]) for ours, theirs in zip(runs["ours"], runs[other])]
    ratios = [ours / theirs for ours, theirs in pairs]
    digits = 0 if key == "peak_mib" else 3
    ours, theirs = (f"{statistics.median(side):.{digits}f}" for side in zip(*pairs))
    return [ours, theirs, f"**{statistics.median(ratios):.2f}**", f"{min(ratios):.2f}–{max(ratios):.2f}"]


def row(case, runs, other):
    seconds = SECONDS[CASES[case][1]]
    name = case if other == "peer" else f"{case}, peer compiled"
    return [name, *cells(runs, other, seconds), *cells(runs, other, "peak_mib")]


def line(columns):
    print("| " + " | ".join(columns) + " |", flush=True)


def cpu():
    """The processor's name as the system tells it."""
    info = pathlib.Path("/proc/cpuinfo")
    names = [text.split(":", 1)[1].strip() for text in info.read_text().splitlines() if text.startswith("model name")] if info.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


def commit():
    git = lambda *arguments: subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True).stdout.strip()
    return git("rev-parse", "--short=10", "HEAD") + (" with changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def preamble(args):
    load = os.getloadavg()[0]
    print(f"Machine: {cpu()}, {os.cpu_count()} cores, {args.threads} threads; load average {load:.2f} at the start.")
    if load > BUSY:
        print(f"**The machine was busy (load above {BUSY}): these figures are not to be trusted.**")
    print(f"Versions: likeness {commit()}, torch {version('torch')}, diffusers {version('diffusers')}, Python {platform.python_version()}.")
    print(f"{args.rounds} rounds; seconds are of a step or of an image, memory is the peak in MiB; ratios are ours / peer's.\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--likeness", type=pathlib.Path, default=ROOT / "target/release/likeness")
    parser.add_argument("--tiny", type=pathlib.Path, default=ROOT / "models/avatar-tiny")
    parser.add_argument("--sd15", type=pathlib.Path, help="directory by `likeness bench make-model --arch sd15`; its cases are left out without it")
    parser.add_argument("--images", type=pathlib.Path, default=ROOT / "models/avatar-tiny/subjects/subject-01")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--compile", action="store_true", help="add the peer with torch.compile and channels_last")
    args = parser.parse_args()

    there = lambda case: (folder := getattr(args, CASES[case][0])) is not None and folder.is_dir()
    preamble(args)
    line(["work", "ours s", "peer s", "ratio", "spread", "ours MiB", "peer MiB", "ratio", "spread"])
    line(["---"] * 9)
    for case in filter(there, args.cases):
        runs = rounds(args, case)
        for other in list(runs)[1:]:
            line(row(case, runs, other))
    left_out = [case for case in args.cases if not there(case)]
    if left_out:
        print(f"\nLeft out, since there is no model directory for them (--sd15, --tiny): {', '.join(left_out)}.")


if __name__ == "__main__":
    main()
