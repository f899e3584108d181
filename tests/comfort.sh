#!/usr/bin/env bash
# What people meet around the service: the protos (buf: style, and nothing that breaks a client), completions in real shells, man pages as
# `man` formats them, and the Python client against a real `likeness up`. Installs what is missing; a tool that cannot be had is a
# failure. LIKENESS names a program that is built already; LIKENESS_WIRE_BASE the commit whose wire must still be spoken
# (the one before this one).
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}"
tools="$cache/likeness-comfort"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/likeness-ci}"

work="$(mktemp -d)"
server=""
finish() {
    status=$?
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    [ "$status" = 0 ] || tail -n 20 "$work"/*.log 2>/dev/null || true
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT

say() { echo "comfort.sh: $*"; }
die() { say "$*" >&2; exit 1; }
install() {
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    say "installing $*"
    $sudo apt-get update -q >/dev/null && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@" >/dev/null ||
        die "$* cannot be installed"
}
need() { command -v "$1" >/dev/null || install "$2"; command -v "$1" >/dev/null || die "$1 is not there"; }

protos() {
    need npm npm
    local buf="$tools/npm/node_modules/.bin/buf" base="${LIKENESS_WIRE_BASE:-}"
    [ -x "$buf" ] || npm install --silent --no-audit --no-fund --prefix "$tools/npm" @bufbuild/buf@1.75.0 || die "buf cannot be had"
    "$buf" lint proto
    if [ -z "$base" ]; then
        base="$(git rev-parse --verify -q HEAD~1)" || { git fetch -q --deepen=1 && base="$(git rev-parse --verify HEAD~1)"; } ||
            die "there is no commit before this one to compare the protos with; name one in LIKENESS_WIRE_BASE"
    fi
    git archive --prefix=base/ "$base" proto | tar -x -C "$work"
    "$buf" breaking proto --against "$work/base/proto"
    # That a change would be noticed.
    cp -r proto "$work/changed"
    sed -i 's/string job_id = 1;/string job_id = 2;/' "$work/changed/likeness/v1/avatars.proto"
    ! "$buf" breaking "$work/changed" --against proto >/dev/null || die "buf does not see a field that moved"
    say "the protos are clean, and break nothing that $(git rev-parse --short "$base") speaks"
}

build() {
    program="${LIKENESS:-}"
    [ -z "$program" ] || return 0
    cargo build --release --workspace --bin likeness
    program="$CARGO_TARGET_DIR/release/likeness"
}

# What a shell offers after `likeness tr`.
completions() {
    need zsh zsh
    need fish fish
    mkdir "$work/shells"
    "$program" completions bash >"$work/shells/likeness.bash"
    "$program" completions zsh >"$work/shells/_likeness"
    "$program" completions fish >"$work/shells/likeness.fish"
    local offered
    offered="$(bash --norc -c "source $work/shells/likeness.bash; COMP_WORDS=(likeness tr); COMP_CWORD=1; _likeness likeness tr likeness; echo \"\${COMPREPLY[*]}\"")"
    [ "$offered" = trainer ] || die "bash offers: $offered"
    offered="$(HOME="$work" fish --no-config -c "source $work/shells/likeness.fish; complete -C 'likeness tr'" | cut -f 1)"
    [ "$offered" = trainer ] || die "fish offers: $offered"
    zsh -f -n "$work/shells/_likeness" || die "zsh does not understand its completions"
    offered="$(zsh -f -c "fpath=($work/shells \$fpath); autoload -U compinit; compinit -u -d $work/dump; echo \$_comps[likeness]")"
    [ "$offered" = _likeness ] || die "zsh completes likeness by: $offered"
    say "bash, zsh and fish complete commands"
}

pages() {
    need groff groff-base
    "$program" man "$work/man"
    local page count=0
    for page in "$work"/man/*.1; do
        groff -k -man -ww -Tutf8 -P-cbou "$page" >"$work/page" 2>"$work/page.log" || die "$page cannot be formatted"
        [ ! -s "$work/page.log" ] || die "$(basename "$page"): $(head -n 1 "$work/page.log")"
        grep -q NAME "$work/page" || die "$(basename "$page") is empty"
        count=$((count + 1))
    done
    say "$count man pages are well-formed"
}

up() {
    LIKENESS__LISTEN=127.0.0.1:0 LIKENESS__TRAINER_SLOTS=1 "$program" --state "$work/state" up --json >"$work/ready" 2>"$work/up.log" &
    server=$!
    for _ in $(seq 300); do
        ! grep -q '^}' "$work/ready" || return 0
        kill -0 "$server" 2>/dev/null || die "likeness up ended"
        sleep 0.2
    done
    die "likeness up does not start"
}

python_client() {
    local venv="$tools/venv" example="$work/python"
    if ! "$venv/bin/python" -c "import grpc_tools, grpc_status" 2>/dev/null; then
        say "installing grpcio-tools into $venv"
        python3 -m venv "$venv" && "$venv/bin/pip" install -q -r examples/python/requirements.txt || die "grpcio-tools cannot be had"
    fi
    # Generated beside a copy, so that nothing is left in the clone.
    mkdir "$work/examples"
    cp -r examples/python "$work/examples/python"
    cp -r proto "$work/proto"
    example="$work/examples/python"
    PYTHON="$venv/bin/python" "$example/generate.sh"
    up
    local ask=("$venv/bin/python" "$example/avatars.py" models/avatar-tiny/subjects/subject-02 --state "$work/state"
        --subject ada --init person --attest-by test --statement "I am the drawing" --steps 4 --out "$work/avatars")
    "${ask[@]}" --prompt "a photo of {subject}" --seed 1 --seed 2 >"$work/client.log" 2>&1 || die "the client failed"
    grep -q "8 photos of ada are stored" "$work/client.log" && grep -q "ada: succeeded, step 4/4" "$work/client.log" ||
        die "the client does not tell how the job went"
    [ "$(head -qc 4 "$work"/avatars/*.png | tr -d '\211')" = PNGPNG ] || die "two avatars, not: $(ls "$work/avatars")"
    local said
    ! said="$("${ask[@]}" --prompt "a photo" 2>&1)" || die "a prompt without its subject was accepted"
    grep -q ERROR_CODE_PROMPT_WITHOUT_SUBJECT <<<"$said" || die "a refusal is not told: $said"
    "$program" --state "$work/state" doctor >"$work/doctor.log" || die "the doctor does not find a service that works well"
    say "the Python client: photos, job, watch, two avatars, and a refusal by its code"
}

protos
build
completions
pages
python_client
