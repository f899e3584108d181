"""A bill of materials (CycloneDX 1.6, JSON) of what build.sh puts into an image: the crates that are linked into the program, the system's packages
whose files are there, and the bundled model. The same sources give the same bytes.

Usage: sbom.py "FEATURES" FILE… > sbom.cdx.json      FEATURES: arguments for cargo, may be empty; FILE: files of the system that are copied
"""

import datetime
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tomllib
import uuid


def said(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def crates(features):
    """What the program is linked with, first itself; build scripts and tests are not in the image."""
    host = next(line.split()[1] for line in said("rustc", "-vV").splitlines() if line.startswith("host:"))
    told = json.loads(said("cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={host}",
                           "--manifest-path=cli/Cargo.toml", *features))
    packages = {package["id"]: package for package in told["packages"]}
    nodes = {node["id"]: node for node in told["resolve"]["nodes"]}
    sums = {(entry["name"], entry["version"]): entry.get("checksum")
            for entry in tomllib.loads(pathlib.Path("Cargo.lock").read_text())["package"]}
    linked = tree(features)
    first, seen, edges = told["resolve"]["root"], set(), {}
    left = [first]
    while left:
        id = left.pop()
        if id in seen:
            continue
        seen.add(id)
        edges[id] = sorted(dep["pkg"] for dep in nodes[id]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"]))
        left += [dep for dep in edges[id] if ref(packages[dep]) in linked]
    edges = {id: [dep for dep in deps if dep in seen] for id, deps in edges.items()}
    parts = {id: crate(packages[id], sums.get((packages[id]["name"], packages[id]["version"]))) for id in seen}
    return parts.pop(first), list(parts.values()), [
        {"ref": ref(packages[id]), "dependsOn": sorted({ref(packages[dep]) for dep in deps})} for id, deps in edges.items()]


def tree(features):
    """What is linked: the metadata also have what a feature could ask for, and macros."""
    told = said("cargo", "tree", "--locked", "-p", "likeness-cli", "-e", "normal,no-proc-macro", "--prefix", "none", "-f", "{p}", *features)
    return {f"pkg:cargo/{name}@{version.lstrip('v')}" for name, version, *_ in map(str.split, filter(None, told.splitlines()))}


def ref(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def crate(package, checksum):
    part = {"type": "library", "bom-ref": ref(package), "name": package["name"], "version": package["version"], "purl": ref(package)}
    if package["license"]:
        # Before SPDX, a slash was an `or`.
        part["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if checksum:
        part["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return part


def system(files):
    """The packages that files are of; files of none (NVIDIA's wheels) stand for themselves."""
    parts = {}
    for file in files:
        real = os.path.realpath(file)
        owner = next(filter(None, (said("dpkg-query", "-S", path) for path in dict.fromkeys([file, real, real.removeprefix("/usr"), f"/usr{real}"]))), None)
        if owner is None and file.endswith("ca-certificates.crt"):
            owner = "ca-certificates: made by it"
        if owner:
            name = owner.split(": ")[0].split(",")[0]
            version = said("dpkg-query", "-W", "-f=${Version}", name)
            bare = name.split(":")[0]
            purl = f"pkg:deb/debian/{bare}@{version.replace('+', '%2B').replace(':', '%3A')}"
            parts[bare] = {"type": "library", "bom-ref": purl, "name": bare, "version": version, "purl": purl}
        else:
            digest = hashlib.sha256(pathlib.Path(real).read_bytes()).hexdigest()
            name = os.path.basename(real)
            parts[name] = {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": [{"alg": "SHA-256", "content": digest}]}
    return list(parts.values())


def model(folder):
    digest = hashlib.sha256()
    for path in sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file() and "training" not in path.parts):
        digest.update(str(path).encode() + b"\0" + path.read_bytes())
    return {"type": "machine-learning-model", "bom-ref": "model:avatar-tiny", "name": "avatar-tiny",
            "hashes": [{"alg": "SHA-256", "content": digest.hexdigest()}]}


def main(features, *files):
    program, parts, edges = crates(features.split())
    program = program | {"type": "application", "name": "likeness"}
    components = sorted([*parts, *system(files), model("models/avatar-tiny")], key=lambda part: part["bom-ref"])
    time = datetime.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH") or 0), datetime.timezone.utc)
    bill = {
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "metadata": {"timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ"), "component": program,
                     "properties": [{"name": "likeness:commit", "value": os.environ.get("LIKENESS_COMMIT", "")}]},
        "components": components,
        "dependencies": sorted(edges, key=lambda edge: edge["ref"]),
    }
    bill["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(bill, sort_keys=True))}"
    json.dump(bill, sys.stdout, indent=1, sort_keys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
