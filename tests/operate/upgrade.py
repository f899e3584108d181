#!/usr/bin/env python3
"""An upgrade and a rollback with jobs under way: `upgrade.py NEW_LIKENESS OLD_LIKENESS`.

Coordinators first, then workers; back in the other order. Every job must end well, whichever release its coordinator and its workers
are of, also when the coordinator is replaced in the middle of its training."""

import json
import subprocess
import sys

from fleet import Fleet, accepted, ended, free_port, until

LONG = 400  # steps; some seconds


class Rollout:
    """A coordinator on one address and store, a trainer and a sampler; each may be replaced by that of another release."""

    def __init__(self, fleet):
        self.fleet, self.port = fleet, free_port()
        server, bucket = f"http://127.0.0.1:{self.port}", f"file://{fleet.path}/bucket"
        self.settings = {"SERVER": server, "TOKEN_FILE": fleet.path / "desk/token", "BUCKET": bucket, "ATTEMPTS": "3", "LEASE_SECONDS": "5"}

    def coordinator(self, program):
        """Replaces the coordinator; why it does not start, if it does not."""
        self.replace("desk")
        of_clients = ("SERVER", "TOKEN_FILE")
        settings = {key: value for key, value in self.settings.items() if key not in of_clients}
        self.fleet.start("desk", "coordinator", "--json", program=program, **settings | {"LISTEN": f"127.0.0.1:{self.port}"})
        process, folder = self.fleet.processes["desk"], self.fleet.path
        until("the coordinator", lambda: process.poll() is not None or "http" in (folder / "desk.out").read_text())
        return (folder / "desk.log").read_text() if process.poll() is not None else None

    def workers(self, program):
        for role in ("trainer", "sampler"):
            self.replace(role)
            self.fleet.start(role, role, "--name", role, program=program, **self.settings)

    def replace(self, name):
        if name in self.fleet.processes:
            self.fleet.stop(name)

    def job(self, subject, steps=4):
        return accepted(self.fleet, self.settings, subject, steps)

    def ended(self, job):
        drawn = len(ended(self.fleet, self.settings, job)["subjects"][0]["avatars"])
        if drawn != 2:
            sys.exit(f"the job {job} has {drawn} avatars, not 2")

    def is_training(self, job):
        shown = json.loads(self.fleet.client(self.settings, "show", job, "--json").stdout)
        return shown["subjects"][0]["step"] > 0


def main():
    new, old = sys.argv[1:]
    for program in (old, new):
        print(subprocess.run([program, "version", "--json"], check=True, capture_output=True, text=True).stdout.strip())
    with Fleet(new) as fleet:
        rollout = Rollout(fleet)
        rollout.coordinator(old)
        rollout.workers(old)
        rollout.ended(rollout.job("before"))
        # The coordinator goes first, under a training.
        under_way = rollout.job("under-way", LONG)
        until("the training to begin", lambda: rollout.is_training(under_way))
        rollout.coordinator(new)
        rollout.ended(under_way)
        rollout.ended(rollout.job("old-workers"))
        print("old workers work for the new coordinator, over the old one's store")
        under_way = rollout.job("handed-over", LONG)
        until("the training to begin", lambda: rollout.is_training(under_way))
        rollout.workers(new)
        rollout.ended(under_way)
        print("new workers go on with what old ones drained")
        # And back.
        rollout.workers(old)
        rollout.ended(rollout.job("workers-back"))
        refusal = rollout.coordinator(old)
        if refusal is None:
            rollout.ended(rollout.job("all-back"))
            print("the old coordinator goes on over the new one's store")
        elif "was written by a newer release" in refusal:
            print("the store has a new migration: the old coordinator refuses it, and going back needs the backup of before")
        else:
            sys.exit(f"the old coordinator does not start: {refusal}")


if __name__ == "__main__":
    main()
