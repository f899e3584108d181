"""What tracing costs a training: the same training again and again, with and without a collector, in turns. By hand, on a quiet machine.

Prints the ratio of each pair and their median; it is meant to be below 1.02."""

import argparse
import asyncio
import statistics

from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

from service import Service, free_port


def seconds(program: str, settings: dict[str, str], steps: int) -> float:
    with Service(program, settings) as service:
        job = service.job("--steps", str(steps))
        return job["subjects"][0]["trained"]["seconds"]


async def main(args):
    port = free_port()
    async with OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(http_port=port)):
        traced = {"TRACING_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTLP_PROTOCOL": "http/protobuf"}
        ratios = []
        for pair in range(args.pairs):
            turns = [{}, traced] if pair % 2 == 0 else [traced, {}]
            times = {bool(turn): await asyncio.to_thread(seconds, args.program, turn, args.steps) for turn in turns}
            ratios.append(times[True] / times[False])
            print(f"pair {pair + 1}: {times[False]:.2f} s without, {times[True]:.2f} s with, ratio {ratios[-1]:.4f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.4f} of {len(ratios)} pairs")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("program")
parser.add_argument("--pairs", type=int, default=7)
parser.add_argument("--steps", type=int, default=400)
asyncio.run(main(parser.parse_args()))
