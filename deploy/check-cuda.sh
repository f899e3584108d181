#!/usr/bin/env bash
# Builds and links `likeness` with CUDA, cuDNN and NCCL on a machine without a GPU, and runs it as far as that goes:
#   - the CUDA 13.0 compiler and libraries come from PyPI wheels into a scratch folder (2.5 GB), nothing is installed system-wide;
#   - libcuda, which belongs to NVIDIA's driver, is stood in for by a library whose every function answers CUDA_ERROR_NO_DEVICE;
#   - `likeness doctor` must then say that there is no CUDA device, and the real NCCL must hand out an id.
# Usage: deploy/check-cuda.sh [FOLDER]   FOLDER holds toolkit and build output, and is kept for the next run.
# Needs: Rust, a C++ compiler, python3 with venv. The first run takes about 25 minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch="${1:-${XDG_CACHE_HOME:-$HOME/.cache}/likeness-cuda}"
source deploy/cuda-toolkit.sh "$scratch" cudnn

export CARGO_TARGET_DIR="$scratch/target"
# Each set of features once: cuDNN changes nothing but which functions candle calls for convolutions, and what links with it links without.
cargo clippy --release --locked -p likeness-cli -p likeness-trainer --all-targets --features likeness-cli/cuda,likeness-cli/nccl -- -D warnings
cargo build --release --locked -p likeness-cli --features cuda,cudnn,nccl
binary="$scratch/target/release/likeness"

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
