"""A `likeness up` on a state folder of its own, for as long as a block lasts."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile

SUBJECT = pathlib.Path(__file__).resolve().parents[2] / "models/avatar-tiny/subjects/subject-01"
CONSENT = ["--attest-by", "test", "--attest-as", "self", "--statement", "I am the drawing"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Service:
    def __init__(self, program: str, settings: dict[str, str]):
        self.program = program
        self.folder = tempfile.TemporaryDirectory()
        own = {"LISTEN": "127.0.0.1:0", "STATE": f"{self.folder.name}/state", "TRAINER_SLOTS": "1", "LOG": "warn"}
        self.environment = os.environ | {f"LIKENESS__{key}": value for key, value in (own | settings).items()}

    def __enter__(self) -> "Service":
        command = [self.program, "up", "--json"]
        self.process = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE)
        line = b""
        while not line.rstrip().endswith(b"}"):
            more = self.process.stdout.readline()
            assert more, "the service ended before it was ready"
            line += more
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0, "the service did not end well"
        self.folder.cleanup()

    def run(self, *args: str) -> dict:
        ran = subprocess.run([self.program, *args, "--json"], env=self.environment, stdout=subprocess.PIPE, check=True)
        # `submit --wait --json` prints one value, over several lines.
        return json.loads(ran.stdout)

    def job(self, *learning: str) -> dict:
        """A job of two avatars, waited for."""
        prompts = pathlib.Path(self.folder.name, "prompts.toml")
        prompts.write_text('prompts = ["a photo of {subject}", "pixel art of {subject}"]\nsteps = 3\n')
        subject = [str(SUBJECT), "--subject", "lovelace", "--init", "person", "--prompts", str(prompts)]
        job = self.run("submit", *subject, *learning, *CONSENT, "--wait")
        assert job["state"] == "succeeded", job
        return job
