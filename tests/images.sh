#!/usr/bin/env bash
# Checks the images without Docker: what the Dockerfiles run (deploy/images/build.sh) is run in a clean clone, and the folder that becomes the
# image is run as one: as its user, with a root that cannot be written, and with nothing of this machine. The CUDA image is built the same way
# where KINDS="cpu cuda" asks for it (25 minutes from nothing). Needs root, for chroot and mounts, as CI has.
# Build output lies outside the clone, so that a second run is quick.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}"
work="$cache/likeness-images"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/likeness-ci}"
kinds="${KINDS:-cpu}"
die() { echo "images.sh: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die "run it as root: it changes its root folder into the image"

mkdir -p "$work"
[ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "cyclonedx-python-lib[json-validation]==11.5.0"

# Always the same folder, so that files that did not change keep their times; only what is committed is in it, and what will be.
commit=$(git stash create 2>/dev/null || true)
commit=${commit:-$(git rev-parse HEAD)}
[ -e "$work/src/.git" ] || git clone -q --no-checkout . "$work/src"
git -C "$work/src" fetch -q "$PWD" "$commit" 2>/dev/null || git -C "$work/src" fetch -q "$PWD" HEAD
git -C "$work/src" checkout -q --force --detach "$commit"
git -C "$work/src" clean -qdffx

stamp=(LIKENESS_COMMIT=0123456789abcdef0123456789abcdef01234567 LIKENESS_DIRTY=false SOURCE_DATE_EPOCH=1700000000)
# As in a container, there is no git to ask.
build() { (cd "$work/src" && env GIT_DIR=/nowhere "${stamp[@]}" deploy/images/build.sh "$1" "$work/$2"); }
contents() { (cd "$1" && find . -type f -exec sha256sum {} + && find . -printf '%p %m %T@\n') | sort; }

# Runs COMMAND in the image as its Dockerfile would.
inside() {
    local image="$1"
    shift
    # shellcheck disable=SC2016
    unshare --mount sh -c 'set -e
        mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"
        mount -t tmpfs -o mode=1777 tmpfs "$0/tmp" && mount -t tmpfs -o mode=1777 tmpfs "$0/var/lib/likeness"
        mount --rbind /proc "$0/proc" && mount --rbind /dev "$0/dev"
        library="$1"; shift
        exec env -i LIKENESS__STATE=/var/lib/likeness LD_LIBRARY_PATH="$library" "$(command -v chroot)" --userspec=65532:65532 "$0" /opt/likeness/bin/likeness "$@"' \
        "$image" "${LIBRARIES:-}" "$@"
}

"$work/venv/bin/python" tests/images/dockerfiles.py deploy/images/*.Dockerfile
for kind in $kinds; do
    build "$kind" "$kind"
    build "$kind" again
    diff <(contents "$work/$kind") <(contents "$work/again") || die "two builds of one source differ"
    rm -rf "$work/again"
    if [ "$kind" = cuda ]; then
        # In place of the driver that a node would bring.
        install -D "${CUDA_SCRATCH:-$CARGO_TARGET_DIR/cuda-toolkit}/driver/libcuda.so.1" "$work/$kind/driver/libcuda.so.1"
        export LIBRARIES=/driver
    fi
    inside "$work/$kind" version --json > "$work/version.json"
    "$work/venv/bin/python" tests/images/image.py "$kind" "$work/$kind" "$work/version.json" "${stamp[@]}"
    # It ends badly where a GPU or a server is missing, too.
    inside "$work/$kind" doctor > "$work/doctor" 2>&1 || true
    grep -E '^model +ok' "$work/doctor" || die "the image has no whole model: $(cat "$work/doctor")"
    inside "$work/$kind" demo --steps 4 --out /tmp/demo 2> "$work/demo" || die "the image cannot learn and draw: $(cat "$work/demo")"
    ! inside "$work/$kind" demo --steps 4 --out /opt/demo 2> "$work/demo" || die "the root of the image can be written"
    grep -q "Read-only file system" "$work/demo" || die "the image says of a root that is only read: $(cat "$work/demo")"
    echo "images.sh: $kind learns and draws as a user of no rights, with a root that cannot be written"
done
