#!/usr/bin/env bash
# Builds and links `likeness` with CUDA and NCCL on a machine without a GPU, and runs it as far as that goes:
#   - the CUDA 13.0 compiler and libraries come from PyPI wheels into a scratch folder (1.5 GB), nothing is installed system-wide;
#   - libcuda, which belongs to NVIDIA's driver, is stood in for by a library whose every function answers CUDA_ERROR_NO_DEVICE;
#   - `likeness doctor` must then say that there is no CUDA device, and the real NCCL must hand out an id.
# Usage: deploy/check-cuda.sh [FOLDER]   FOLDER holds toolkit and build output, and is kept for the next run.
# Needs: Rust, a C++ compiler, python3 with venv. The first run takes about 25 minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch="${1:-${XDG_CACHE_HOME:-$HOME/.cache}/likeness-cuda}"
mkdir -p "$scratch"
scratch=$(cd "$scratch" && pwd -P)

# The toolkit: one folder as NVIDIA's installer would make it.
if [ ! -e "$scratch/toolkit" ]; then
  python3 -m venv "$scratch/venv"
  "$scratch/venv/bin/pip" install --quiet --no-deps \
    nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 \
    nvidia-cublas==13.0.2.14 nvidia-curand==10.4.0.35 nvidia-cuda-nvrtc==13.0.88 nvidia-nccl-cu13==2.28.9
  wheels=$(echo "$scratch"/venv/lib/python3*/site-packages/nvidia)
  cp -l "$wheels"/nccl/lib/libnccl.so.2 "$wheels/cu13/lib/"
  for library in "$wheels"/cu13/lib/lib*.so.*; do
    ln -sf "$(basename "$library")" "${library%%.so.*}.so"
  done
  ln -s "$wheels/cu13" "$scratch/toolkit"
fi
export CUDA_HOME="$scratch/toolkit" CUDA_PATH="$scratch/toolkit" CUDA_ROOT="$scratch/toolkit" CUDA_TOOLKIT_ROOT_DIR="$scratch/toolkit"
export PATH="$scratch/toolkit/bin:$PATH" NVCC="$scratch/toolkit/bin/nvcc" CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}" CUDARC_CUDA_VERSION=13000

# The stand-in for the driver: every function that cudarc declares, answering 100.
cargo fetch --quiet --locked
cudarc=$(cargo metadata --quiet --locked --format-version 1 --features cuda,nccl --manifest-path cli/Cargo.toml |
  python3 -c 'import json, sys, pathlib; print(next(pathlib.Path(p["manifest_path"]).parent for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc"))')
mkdir -p "$scratch/driver"
{
  echo "/* CUDA_ERROR_NO_DEVICE, whatever is asked. */"
  grep -oE 'fn cu[A-Z][A-Za-z0-9_]+' "$cudarc/src/driver/sys/mod.rs" | awk '{print "int " $2 "(void) { return 100; }"}' | sort -u
} > "$scratch/driver/libcuda.c"
cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$scratch/driver/libcuda.so.1" "$scratch/driver/libcuda.c"
ln -sf libcuda.so.1 "$scratch/driver/libcuda.so"

export CARGO_TARGET_DIR="$scratch/target" LIBRARY_PATH="$scratch/driver:$scratch/toolkit/lib"
export RUSTFLAGS="-L native=$scratch/driver -L native=$scratch/toolkit/lib"
cargo clippy --release --locked -p likeness-cli --features cuda,nccl -- -D warnings
cargo build --release --locked -p likeness-cli --features cuda,nccl
binary="$scratch/target/release/likeness"

export LD_LIBRARY_PATH="$scratch/driver:$scratch/toolkit/lib"
report=$("$binary" doctor --json)
echo "$report"
python3 - "$report" <<'PY'
import json, sys
checks = {check["name"]: check for check in json.loads(sys.argv[1])["checks"]}
assert not checks["cuda"]["ok"] and "no CUDA device" in checks["cuda"]["says"], checks["cuda"]
assert checks["nccl"]["ok"] and "id" in checks["nccl"]["says"], checks["nccl"]
PY
for command in "doctor" "bench train --model models/avatar-tiny --images models/avatar-tiny/subjects/subject-01"; do
  if said=$("$binary" $command --device cuda:0 2>&1); then
    echo "$command on a GPU that is not there ended well" >&2
    exit 1
  fi
  grep -q "there is no CUDA device 0" <<<"$said" || { echo "$command said: $said" >&2; exit 1; }
done
echo "check-cuda: the binary builds, links and says what is missing; NCCL hands out an id"
