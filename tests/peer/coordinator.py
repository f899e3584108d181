#!/usr/bin/env python3
"""The coordinator on Postgres beside Postgres alone: cycles per second of both, in turn, on the same database.

    cargo build --release
    python3 tests/peer/coordinator.py --server postgres://USER@HOST:PORT [--queued 10000] [--seconds 20] [--rounds 3]

Each round makes a database, has `likeness bench coordinator` queue trainings there and work on them, and then lets pgbench make the
same statements (cycle.sql) on what is left, with 16 connections as the coordinator has. Prints one JSON object; `ratio` is the
median of ours / pgbench's. Needs psql and pgbench on the path. Measure on a machine that does nothing else.
"""
import argparse, json, pathlib, re, statistics, subprocess, sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONNECTIONS = 16
MODEL = "sha256:" + "a" * 64
TRAIN = 1


def psql(url, statement):
    done = subprocess.run(["psql", url, "-Atc", statement], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def ours(args, database):
    command = [args.likeness, "bench", "coordinator", "--store", database, "--queued", args.queued, "--workers", args.workers,
               "--clients", 0, "--seconds", args.seconds, "--tenants", args.tenants]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def pgbench(args, database):
    """Cycles per second of Postgres alone, or an error where some client could not go on."""
    worker = psql(database, "SELECT incarnation FROM workers LIMIT 1")
    command = ["pgbench", "--no-vacuum", "--protocol=prepared", f"--client={CONNECTIONS}", "--jobs=2", f"--time={args.seconds}",
               "--file", ROOT / "tests/peer/cycle.sql", "-D", f"kind={TRAIN}", "-D", f"model={MODEL}", "-D", f"worker={worker}", database]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    rate = re.search(r"tps = ([0-9.]+)", done.stdout)
    if done.returncode or not rate or "aborted" in done.stderr:
        sys.exit(f"pgbench: {done.stderr.strip()[-2000:]}")
    return float(rate.group(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, help="a server on which databases may be made, without a database's name")
    parser.add_argument("--likeness", type=pathlib.Path, default=ROOT / "target/release/likeness")
    parser.add_argument("--queued", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--tenants", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    rounds = []
    for number in range(args.rounds):
        name = f"likeness_peer_{number}"
        psql(f"{args.server}/postgres", f"DROP DATABASE IF EXISTS {name}")
        psql(f"{args.server}/postgres", f"CREATE DATABASE {name}")
        database = f"{args.server}/{name}"
        mine = ours(args, database)
        rounds.append({"ours": mine["cycles_per_second"], "pgbench": pgbench(args, database), "lost": mine["lost"], "errors": mine["errors"]})
        psql(f"{args.server}/postgres", f"DROP DATABASE {name}")
    ratio = statistics.median(each["ours"] / each["pgbench"] for each in rounds)
    print(json.dumps({"work": "coordinator", "queued": args.queued, "rounds": rounds, "ratio": ratio}))


if __name__ == "__main__":
    main()
