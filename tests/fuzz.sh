#!/usr/bin/env bash
# Feeds mutations of good inputs to whatever reads bytes from outside, and looks for panics, overflows, slow inputs and hunger for memory:
#   tests/fuzz.sh [EXECUTIONS [SECONDS [TARGET…]]]
# Each target of tests/fuzz/src/bin ends after so many executions (10 million) or seconds (600), whichever comes first. Prints a table;
# fails if anything was found, and says where the input lies. Inputs that reach new code are kept and go into the next run.
# libFuzzer with stable Rust: what `cargo fuzz` passes to rustc, but for the sanitizers, which want nightly and find little in code
# that is safe.
set -euo pipefail
cd "$(dirname "$0")/fuzz"
executions="${1:-10000000}"
seconds="${2:-600}"
targets=("${@:3}")
[ "${#targets[@]}" != 0 ] || for file in src/bin/*.rs; do
    [ "$file" = src/bin/seeds.rs ] || targets+=("$(basename "$file" .rs)")
done
host="$(rustc -vV | sed -n 's/^host: //p')"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/likeness-ci}"
built="$CARGO_TARGET_DIR/$host/fuzz"
work="$CARGO_TARGET_DIR/fuzzing"

# With --target, build scripts and procedural macros are left as they are.
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares" cargo build --quiet --profile fuzz --target "$host" --locked

# Good files: small ones that lie here, the photos of avatar-tiny, the prompts that people read about, encoded messages.
seeds="$work/seeds"
rm -rf "$seeds"
mkdir -p "$seeds" "$work/found"
cp -r seeds/. "$seeds"
for photo in ../../models/avatar-tiny/subjects/*/*.png; do
    cp "$photo" "$seeds/photos/$(basename "$(dirname "$photo")")-$(basename "$photo")"
done
cp ../../models/avatar-tiny/prompts.toml "$seeds/prompts/"
sed -n '/^```toml$/,/^```$/{/^```/d;p}' ../../README.md >"$seeds/prompts/readme.toml"
FUZZ_SEEDS="$seeds" "$built/seeds" -runs=0 2>"$work/seeds.log" || { cat "$work/seeds.log" >&2; exit 1; }

# The longest input, bytes.
longest() { case "$1" in photos) echo 8192 ;; keys) echo 128 ;; *) echo 2048 ;; esac; }

found=0
printf '%-10s %12s %8s %12s %10s %10s  %s\n' target executions seconds "edges seen" slowest,s peak,MiB findings
for target in "${targets[@]}"; do
    log="$work/$target.log"
    mkdir -p "$work/corpus/$target"
    dictionary="dictionaries/$target.txt"
    begin="$SECONDS"
    # A photo of 64 million pixels takes 64 MiB decoded, thrice that as RGB, and seconds.
    "$built/$target" "$work/corpus/$target" "$seeds/$target" -runs="$executions" -max_total_time="$seconds" \
        -max_len="$(longest "$target")" $([ ! -f "$dictionary" ] || echo "-dict=$dictionary") -timeout=20 -rss_limit_mb=1024 \
        -print_final_stats=1 -artifact_prefix="$work/found/$target-" >"$log" 2>&1 && finding=none || finding="$(sed -n 's/^.*Test unit written to //p' "$log")"
    stat() { sed -n "s/^stat::$1: *//p" "$log"; }
    edges="$(grep -o 'cov: [0-9]*' "$log" | tail -n 1 | cut -d ' ' -f 2)"
    printf '%-10s %12s %8s %12s %10s %10s  %s\n' "$target" "$(stat number_of_executed_units)" "$((SECONDS - begin))" "${edges:-0}" \
        "$(stat slowest_unit_time_sec)" "$(stat peak_rss_mb)" "${finding:-see $log}"
    [ "$finding" = none ] || { found=1; grep -m 3 -E 'panicked|ERROR|SUMMARY' -A 1 "$log" || true; }
done
exit "$found"
