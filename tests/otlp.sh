#!/usr/bin/env bash
# A job's trace and the metrics over OTLP/HTTP, heard by a receiver that is not ours (oteltap, from PyPI). Installs it into a folder of
# its own; a receiver that cannot be had is a failure. `cost` and `share` measure what tracing costs instead.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/likeness-ci}"
venv="$cache/likeness-otlp"
stamp="$venv/$(sha256sum < tests/otlp/requirements.txt | cut -c1-16)"
if [ ! -e "$stamp" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -r tests/otlp/requirements.txt
    touch "$stamp"
fi
[ -n "${LIKENESS:-}" ] || cargo build --release --workspace --bin likeness --locked
LIKENESS="${LIKENESS:-$CARGO_TARGET_DIR/release/likeness}"
case "${1:-}" in
    cost | share) exec "$venv/bin/python" "tests/otlp/$1.py" "$LIKENESS" "${@:2}" ;;
esac
exec "$venv/bin/python" tests/otlp/job.py "$LIKENESS"
