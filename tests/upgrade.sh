#!/usr/bin/env bash
# An upgrade and a rollback between two releases with jobs under way (tests/operate/upgrade.py): this one, and the one of the commit before
# it. LIKENESS_OLD_COMMIT names another commit; LIKENESS and LIKENESS_OLD name programs that are built already. The old
# one is compiled in a folder of its own, which is kept: the first time takes as long as a build from nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/likeness-ci}"

old="${LIKENESS_OLD:-}"
if [ -z "$old" ]; then
    commit="${LIKENESS_OLD_COMMIT:-HEAD~1}"
    git rev-parse --verify -q "$commit^{commit}" >/dev/null || git fetch -q --deepen=1
    # Kept where it is, so that cargo compiles again only what another commit has changed.
    kept="$cache/likeness-upgrade"
    [ -d "$kept/source" ] || git clone -q --no-checkout . "$kept/source"
    git -C "$kept/source" fetch -q "$PWD" "$(git rev-parse "$commit^{commit}")"
    git -C "$kept/source" checkout -q --force --detach FETCH_HEAD
    (cd "$kept/source" && CARGO_TARGET_DIR="$kept/target" cargo build --release --workspace --bin likeness --locked)
    old="$kept/target/release/likeness"
fi
new="${LIKENESS:-}"
if [ -z "$new" ]; then
    cargo build --release --workspace --bin likeness --locked
    new="$CARGO_TARGET_DIR/release/likeness"
fi
python3 tests/operate/upgrade.py "$new" "$old"
