"""Processes of Likeness in a folder of their own, for tests of what operators do."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

PATIENCE = 60  # seconds
PHOTOS = "models/avatar-tiny/subjects/subject-02"
CONSENT = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"]
SETTINGS = {
    "LISTEN": "127.0.0.1:0",
    "LEASE_SECONDS": "2",
    "ATTEMPTS": "1",
    "TRAINER_SLOTS": "2",
    "THREADS": "1",
    "DRAIN_SECONDS": "2",
    "RETRY_SECONDS": "5",
}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def until(what, holds):
    """What `holds` answers once that is something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := holds():
            return found
        time.sleep(0.1)
    sys.exit(f"waited in vain for {what}")


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return None


class Fleet:
    """Processes in a folder, killed with it. What they said last is printed where a test fails."""

    def __init__(self, program):
        self.program, self.processes = program, {}
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.prompts = self.path / "prompts.toml"
        self.prompts.write_text('steps = 2\nseeds = [1, 2]\nprompts = ["a photo of {subject}"]\n')

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        for process in self.processes.values():
            process.kill()
            process.wait()
        if failure:
            for log in sorted(self.path.glob("*.log")):
                print(f"== {log.name}", *log.read_text().splitlines()[-10:], sep="\n", file=sys.stderr)
        self.folder.cleanup()

    def spawn(self, name, command, settings):
        environment = {**os.environ, **{f"LIKENESS__{key}": str(value) for key, value in settings.items()}}
        out, log = (open(self.path / f"{name}.{ending}", "w") for ending in ("out", "log"))
        self.processes[name] = subprocess.Popen(command, env=environment, stdout=out, stderr=log)

    def start(self, name, *arguments, program=None, **settings):
        """Starts a role, by another program if one is given."""
        self.spawn(name, [program or self.program, "--state", self.path / name, *arguments], {**SETTINGS, **settings})

    def stop(self, name):
        """Has a process drain and end."""
        process = self.processes.pop(name)
        process.terminate()
        if process.wait(PATIENCE) != 0:
            sys.exit(f"{name} ended with {process.returncode}")

    def said(self, name, pattern):
        return until(f"{pattern} of {name}", lambda: re.search(pattern, (self.path / f"{name}.out").read_text()))[1]

    def client(self, settings, *arguments):
        environment = {**os.environ, **{f"LIKENESS__{key}": str(value) for key, value in settings.items()}}
        return subprocess.run([self.program, "--state", self.path / "client", *arguments], env=environment, capture_output=True, text=True)

    def submit(self, settings, subject, steps, prompts=None):
        what = [PHOTOS, "--subject", subject, "--init", "person", "--prompts", prompts or self.prompts, "--steps", str(steps)]
        return self.client(settings, "submit", *what, "--batch", "2", "--seed", "7", *CONSENT, "--json")


def accepted(fleet, settings, subject, steps):
    """Submits once workers are there; the job's id."""
    def submitted():
        ran = fleet.submit(settings, subject, steps)
        if ran.returncode != 0 and "no worker" not in ran.stderr:
            sys.exit(f"submit failed: {ran.stderr}")
        return ran.returncode == 0 and json.loads(ran.stdout)["id"]

    return until("a worker", submitted)


def ended(fleet, settings, job):
    """Waits for a job, which must succeed; its last state."""
    watched = fleet.client(settings, "watch", job)
    if watched.returncode != 0:
        sys.exit(f"the job {job} did not succeed: {watched.stderr}")
    return json.loads(fleet.client(settings, "show", job, "--json").stdout)
