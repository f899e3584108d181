#!/usr/bin/env bash
# Builds what an image holds: the program, the libraries that it is linked with, the bundled model, the system's certificates, licences and a bill
# of materials (CycloneDX). The Dockerfiles run it and add nothing; tests/images.sh runs it without Docker.
# Usage: deploy/images/build.sh cpu|cuda FOLDER      FOLDER becomes the image's root
# The stamp of `likeness version` comes from LIKENESS_COMMIT, LIKENESS_DIRTY (true or false) and SOURCE_DATE_EPOCH; where they are not set, from git,
# if this is a checkout. Needs: Rust, a C++ compiler, python3 (for cuda with venv), dpkg.
set -euo pipefail
cd "$(dirname "$0")/../.."
kind="${1:?usage: build.sh cpu|cuda FOLDER}"
root="${2:?usage: build.sh cpu|cuda FOLDER}"
home="$root/opt/likeness"

if [ -z "${LIKENESS_COMMIT:-}" ] && [ -e .git ]; then
    LIKENESS_COMMIT="$(git rev-parse HEAD)"
    LIKENESS_DIRTY="$([ -z "$(git status --porcelain)" ] && echo false || echo true)"
    SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)"
fi
export LIKENESS_COMMIT="${LIKENESS_COMMIT:-}" LIKENESS_DIRTY="${LIKENESS_DIRTY:-}" SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-0}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"

features=()
case "$kind" in
cpu) ;;
cuda)
    features=(--features cuda,nccl)
    # shellcheck source=deploy/cuda-toolkit.sh
    source deploy/cuda-toolkit.sh "${CUDA_SCRATCH:-$CARGO_TARGET_DIR/cuda-toolkit}"
    ;;
*) echo "the kind $kind is none; cpu and cuda are" >&2 && exit 2 ;;
esac
# Under a name of our own: with SOURCE_DATE_EPOCH itself, whatever compiles C would be compiled anew.
LIKENESS_SOURCE_DATE="$SOURCE_DATE_EPOCH" env -u SOURCE_DATE_EPOCH cargo build --release --locked -p likeness-cli "${features[@]}"

rm -rf "$root"
mkdir -p "$home/bin" "$home/models" "$root/etc/ssl/certs"
install -m 755 "$CARGO_TARGET_DIR/release/likeness" "$home/bin/likeness"
cp -rL models/avatar-tiny "$home/models/"
rm -rf "$home/models/avatar-tiny/training"
install -m 644 LICENSE NOTICE "$home/"
install -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
echo "likeness:x:65532:65532::/var/lib/likeness:/sbin/nologin" > "$root/etc/passwd"
echo "likeness:x:65532:" > "$root/etc/group"
install -d -m 1777 "$root/tmp" "$root/var/lib/likeness"
install -d "$root/proc" "$root/sys" "$root/dev"

# Where the loader looks first. The driver's library is not ours: the node puts it into the container.
libraries=$(ldd "$home/bin/likeness" | awk '$2 == "=>" {print $3} $1 ~ /^\// {print $1}' | grep -v '/libcuda\.so' | sort)
for library in $libraries; do
    case "$library" in
    /lib*) install -D -m 755 "$(realpath "$library")" "$root$library" ;;
    *) install -D -m 755 "$(realpath "$library")" "$root/lib/$(uname -m)-linux-gnu/$(basename "$library")" ;;
    esac
done
if [ "$kind" = cuda ]; then
    # Opened by name while running, so that no loader tells of it.
    for library in "$CUDA_HOME"/lib/libnvrtc-builtins.so.*; do
        install -D -m 755 "$library" "$root/lib/$(uname -m)-linux-gnu/$(basename "$library")"
        libraries="$libraries $library"
    done
fi
# shellcheck disable=SC2086
python3 deploy/images/sbom.py "${features[*]}" $libraries /etc/ssl/certs/ca-certificates.crt > "$home/sbom.cdx.json"
find "$root" -depth -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
du -sh "$root" | awk '{print "build.sh: the image holds " $1}'
