#!/usr/bin/env bash
# Alerts and dashboards against a real Prometheus: promtool checks the rules and lets every alert fire and not fire; then a fleet and an
# `up` are scraped while jobs succeed, are refused, and die with their worker (tests/operate/metrics.py), and every query of every panel
# and rule must find what it names (tests/operate/resolve.py). Installs Debian's prometheus where it is missing. LIKENESS names
# a program that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/likeness-ci}"

if ! command -v promtool >/dev/null || ! command -v prometheus >/dev/null; then
    echo "metrics.sh: installing prometheus"
    sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    $sudo apt-get update -q >/dev/null
    # Not as a service.
    $sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -qy --no-install-recommends prometheus >/dev/null
fi
promtool check rules deploy/alerts/likeness.rules.yaml
promtool test rules deploy/alerts/likeness.tests.yaml
python3 deploy/dashboards/make.py --check

program="${LIKENESS:-}"
if [ -z "$program" ]; then
    cargo build --release --workspace --bin likeness
    program="$CARGO_TARGET_DIR/release/likeness"
fi
python3 tests/operate/metrics.py "$program"
