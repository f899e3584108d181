# To be sourced: what building Likeness with CUDA and NCCL needs, made ready in a folder and named by variables. No GPU, nothing system-wide:
#   - the CUDA 13.0 compiler and libraries come from PyPI wheels (1.5 GB);
#   - libcuda, which belongs to NVIDIA's driver, is stood in for by a library whose every function answers CUDA_ERROR_NO_DEVICE.
#   - cuDNN comes the same way (1 GB more) where the second argument asks for it.
# Usage: source deploy/cuda-toolkit.sh FOLDER [cudnn]      in the project's folder; sets CUDA_*, NVCC, PATH, LIBRARY_PATH, LD_LIBRARY_PATH, RUSTFLAGS
# Needs: Rust, a C++ compiler, python3 with venv.
scratch="${1:?usage: source deploy/cuda-toolkit.sh FOLDER}"
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
if [ "${2:-}" = cudnn ] && [ ! -e "$scratch/toolkit/lib/libcudnn.so" ]; then
  "$scratch/venv/bin/pip" install --quiet --no-deps nvidia-cudnn-cu13==9.21.1.3
  # It opens its other libraries by name, beside itself.
  cp -l "$scratch"/venv/lib/python3*/site-packages/nvidia/cudnn/lib/libcudnn*.so.9 "$scratch/toolkit/lib/"
  ln -s libcudnn.so.9 "$scratch/toolkit/lib/libcudnn.so"
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

export LIBRARY_PATH="$scratch/driver:$scratch/toolkit/lib" LD_LIBRARY_PATH="$scratch/driver:$scratch/toolkit/lib"
export RUSTFLAGS="-L native=$scratch/driver -L native=$scratch/toolkit/lib"
