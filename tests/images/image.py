"""What must hold of an image's folder. Usage: image.py KIND FOLDER VERSION-FILE NAME=VALUE…"""

import json
import pathlib
import subprocess
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

MOST_MIB = {"cpu": 150, "cuda": 3000}


def version(kind, told, stamp):
    want = {"commit": stamp["LIKENESS_COMMIT"], "dirty": False, "source_date_epoch": int(stamp["SOURCE_DATE_EPOCH"])}
    assert {key: told[key] for key in want} == want, told
    assert (told["features"], told["cuda"] is None) == ({"cpu": [], "cuda": ["cuda", "nccl"]}[kind], kind == "cpu"), told
    if kind == "cuda":
        assert told["cuda"] == {"version": "13.0", "compute_capability": "90"}, told


def files(kind, root):
    size = sum(path.lstat().st_size for path in root.rglob("*") if path.is_file()) >> 20
    assert size <= MOST_MIB[kind], f"the image has {size} MiB, more than {MOST_MIB[kind]}"
    shells = [path for path in root.rglob("*") if path.name in ("sh", "bash", "apt", "python3")]
    assert not shells, f"the image holds {shells}"
    assert not list(root.rglob("libcuda.so*")), "the driver is the node's"
    loose = [path for path in root.rglob("*") if path.is_file() and path.stat().st_mode & 0o6022]
    assert not loose, f"others may write, or more than run: {loose}"
    return size


def bill(kind, root):
    """The bill is valid, and names every crate that Cargo links, every library that lies there, and nothing twice."""
    text = (root / "opt/likeness/sbom.cdx.json").read_text()
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert fault is None, fault
    parts = json.loads(text)["components"]
    refs = {part["bom-ref"] for part in parts}
    assert len(refs) == len(parts)
    features = ["--features", "cuda,nccl"] if kind == "cuda" else []
    tree = subprocess.run(["cargo", "tree", "--locked", "-p", "likeness-cli", "-e", "normal,no-proc-macro", "--prefix", "none", "-f", "{p}", *features],
                          capture_output=True, text=True, check=True).stdout
    linked = {"pkg:cargo/{}@{}".format(line.split()[0], line.split()[1][1:]) for line in tree.splitlines() if line} - {"pkg:cargo/likeness-cli@0.1.0"}
    listed = {ref for ref in refs if ref.startswith("pkg:cargo/")}
    assert linked == listed, f"only linked: {sorted(linked - listed)}; only listed: {sorted(listed - linked)}"
    names = {part["name"] for part in parts}
    assert names >= {"libc6", "ca-certificates", "avatar-tiny"}, names
    return len(parts)


def main(kind, folder, told, *stamp):
    root = pathlib.Path(folder)
    driver = root / "driver/libcuda.so.1"
    version(kind, json.loads(pathlib.Path(told).read_text()), dict(entry.split("=") for entry in stamp))
    hidden = driver.exists() and driver.read_bytes()
    if hidden:
        driver.unlink()
    print(f"image.py: {kind} has {files(kind, root)} MiB, {bill(kind, root)} parts are listed")
    if hidden:
        driver.write_bytes(hidden)


main(*sys.argv[1:])
