#!/usr/bin/env bash
# The status page in a real browser (Debian's chromium, headless): a real `likeness up` with a job that is done, one whose every text is hostile, one that
# goes on, and one of many subjects. Installs what is missing; what cannot be had is a failure. SHOTS=DIR keeps the screenshots.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/likeness-ci}"

work="$(mktemp -d)"
server=""
finish() {
    status=$?
    [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
    [ "$status" = 0 ] || tail -n 20 "$work"/*.log 2>/dev/null || true
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
die() { echo "page.sh: $*" >&2; exit 1; }

if ! command -v chromium >/dev/null; then
    sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    $sudo apt-get update -q >/dev/null && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
        chromium fonts-dejavu-core >/dev/null || die "chromium is not installed and cannot be"
fi
python="$cache/likeness-page/bin/python"
if ! cmp -s tests/page/requirements.txt "$cache/likeness-page/installed"; then
    python3 -m venv "$cache/likeness-page" && "$python" -m pip install -q -r tests/page/requirements.txt || die "PyPI's packages cannot be had"
    cp tests/page/requirements.txt "$cache/likeness-page/installed"
fi

[ -n "${LIKENESS:-}" ] || cargo build --release --locked -p likeness-cli
LIKENESS="${LIKENESS:-$CARGO_TARGET_DIR/release/likeness}"
likeness() { "$LIKENESS" --state "$work/state" "$@"; }

export LIKENESS__LISTEN=127.0.0.1:0 LIKENESS__PAGE_LISTEN=127.0.0.1:0 LIKENESS__TRAINER_SLOTS=1
"$LIKENESS" --state "$work/state" up --json >"$work/up.json" 2>"$work/up.log" &
server=$!
for _ in $(seq 300); do
    kill -0 "$server" 2>/dev/null || die "the server ended"
    [ ! -s "$work/up.json" ] || break
    sleep 0.2
done
page="$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["page"])' "$work/up.json")"

# What people write may be anything; what they are called may not.
subjects=models/avatar-tiny/subjects
hostile='"><img src=x onerror=alert(1)>'
mkdir "$work/hostile"
photos=("$subjects"/subject-01/*.png)
cp "${photos[0]}" "$work/hostile/$hostile.png"
cp "${photos[1]}" "$work/hostile/$(printf '\xe2\x80\xaegnp.').png"
cat >"$work/hostile.toml" <<'EOF'
prompts = ["a photo of {subject} <script>alert(1)</script>", "\" onload=\"alert(1) ‮ {subject}"]
EOF
printf 'prompts = ["a photo of {subject}", "a pencil sketch of {subject}", "pixel art of {subject}, on a red background"]\n' >"$work/few.toml"
consent=(--attest-by "<script>alert('attested')</script>" --attest-as self --statement "These are photos of me,
<b>and</b> I want avatars of myself.")
submit() { likeness submit --json --init person "${consent[@]}" "$@" | python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])'; }

done="$(submit "$subjects/subject-02" --subject ada --prompts "$work/few.toml" --steps 120 --evaluate-every 20 --previews 2)"
bad="$(submit "$work/hostile" --subject mallory --prompts "$work/hostile.toml" --steps 5)"
for job in "$done" "$bad"; do likeness watch "$job" --json >/dev/null 2>>"$work/watch.log" || die "a job failed"; done
long="$(submit "$subjects/subject-03" --subject grace --prompts "$work/few.toml" --steps 100000 --evaluate-every 100000)"
many="$(submit --dataset "$subjects" --prompts "$work/few.toml" --steps 200)"

"$python" tests/page/check.py --page "$page" --token "$work/state/token" --done "$done" --hostile "$bad" --long "$long" --many "$many" \
    ${SHOTS:+--shots "$SHOTS"}
echo "page.sh: the status page is as it should be"
