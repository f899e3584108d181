#!/usr/bin/env bash
# An upgrade and a rollback between two releases with jobs under way (tests/operate/upgrade.py): this one, and the one of the commit before
# it. LIKENESS_OLD_COMMIT names another commit; LIKENESS and LIKENESS_OLD name programs that are built already.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/likeness-ci}"

work="$(mktemp -d)"
finish() {
    status=$?
    git worktree remove --force "$work/source" 2>/dev/null || true
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT

old="${LIKENESS_OLD:-}"
if [ -z "$old" ]; then
    commit="${LIKENESS_OLD_COMMIT:-HEAD~1}"
    git rev-parse --verify -q "$commit^{commit}" >/dev/null || git fetch -q --deepen=1
    git worktree add -q --detach "$work/source" "$commit"
    # In the same folder, so that no dependency is compiled twice.
    (cd "$work/source" && cargo build --release --workspace --bin likeness --locked)
    old="$work/old"
    cp "$CARGO_TARGET_DIR/release/likeness" "$old"
fi
new="${LIKENESS:-}"
if [ -z "$new" ]; then
    cargo build --release --workspace --bin likeness
    new="$CARGO_TARGET_DIR/release/likeness"
fi
python3 tests/operate/upgrade.py "$new" "$old"
