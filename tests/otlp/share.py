"""How much of the processor's work in a training is tracing's: samples of `perf`, counted by whether tracing is on their stacks. By hand; needs perf, and
unlike the time of two trainings it does not drift with the machine.

Whatever runs under a traced call of the service counts as tracing, so the share is an upper bound."""

import argparse
import asyncio
import pathlib
import re
import subprocess
import tempfile

from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

from service import Service, free_port

TRACING = re.compile(r"opentelemetry|tracing|sharded_slab|likeness_telemetry", re.IGNORECASE)


def shares(program: str, settings: dict[str, str], steps: int) -> tuple[int, int]:
    """Samples of a job with a training of `steps`, and those of them that are tracing's."""
    with tempfile.TemporaryDirectory() as folder, Service(program, settings) as service:
        samples = pathlib.Path(folder, "samples")
        record = ["perf", "record", "--quiet", "--freq", "299", "--call-graph", "dwarf,8192", "--output", samples]
        recording = subprocess.Popen([*record, "--pid", str(service.process.pid)])
        service.job("--steps", str(steps))
        recording.terminate()
        recording.wait(timeout=60)
        script = ["perf", "script", "--no-inline", "--fields", "comm,ip,sym", "--input", samples]
        told = subprocess.run(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    stacks = [stack for stack in told.split("\n\n") if stack.strip()]
    return len(stacks), sum(bool(TRACING.search(stack)) for stack in stacks)


async def main(args):
    port = free_port()
    async with OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(http_port=port)):
        traced = {"TRACING_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTLP_PROTOCOL": "http/protobuf"}
        for name, settings in {"without a collector": {}, "with a collector": traced}.items():
            samples, tracing = await asyncio.to_thread(shares, args.program, settings, args.steps)
            print(f"{name}: {tracing} of {samples} samples, {100 * tracing / samples:.2f} %", flush=True)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("program")
parser.add_argument("--steps", type=int, default=150)
asyncio.run(main(parser.parse_args()))
