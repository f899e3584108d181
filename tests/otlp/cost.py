"""What tracing costs a training: the same training again and again, with and without a collector, in turns. By hand, on a quiet machine.

Prints the ratios of each pair and their medians, of time and of what the processor did for it; they are meant to be below 1.02. Time alone says little
where a machine drifts, and where the collector has the same cores."""

import argparse
import asyncio
import resource
import statistics

from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

from service import Service, free_port


def processor() -> float:
    """Seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds(program: str, settings: dict[str, str], steps: int) -> tuple[float, float]:
    """Of a training, and of the processor for the whole service."""
    before = processor()
    with Service(program, settings) as service:
        job = service.job("--steps", str(steps))
    return job["subjects"][0]["trained"]["seconds"], processor() - before


async def main(args):
    port = free_port()
    async with OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(http_port=port)):
        traced = {"TRACING_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTLP_PROTOCOL": "http/protobuf"}
        ratios = []
        for pair in range(args.pairs):
            turns = [{}, traced] if pair % 2 == 0 else [traced, {}]
            times = {bool(turn): await asyncio.to_thread(seconds, args.program, turn, args.steps) for turn in turns}
            ratios.append([with_ / without for with_, without in zip(times[True], times[False])])
            print(f"pair {pair + 1}: {times[False]} s without, {times[True]} s with, ratios {ratios[-1]}", flush=True)
    time, work = (statistics.median(ratio) for ratio in zip(*ratios))
    print(f"median ratio of time {time:.4f}, of the processor's work {work:.4f}, of {len(ratios)} pairs")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("program")
parser.add_argument("--pairs", type=int, default=7)
parser.add_argument("--steps", type=int, default=400)
asyncio.run(main(parser.parse_args()))
