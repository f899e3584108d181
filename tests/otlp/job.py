"""A job of a real `likeness up`, as a receiver of OTLP/HTTP that is not ours hears of it."""

import asyncio
import sys
from collections import Counter

from opentelemetry.proto.trace.v1.trace_pb2 import Span
from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

from service import Service, free_port

# Of one job with one subject and two avatars: the way from the root, without the calls in between.
WANTED = Counter({
    "submit": 1,
    "train": 1, "load": 1, "encode": 1, "learn": 1, "step": 1, "evaluate": 3, "checkpoint": 1, "publish": 1,
    "render": 1, "denoise": 2, "decode": 2,
    "assemble": 1, "paint": 1,
    "pull": 11,  # the embedding, eight photos, two avatars
    "write": 3,  # two avatars, the contact sheet
})


async def gather(stream, into: list):
    async for item in stream:
        into.append(item)


async def main(program: str):
    port = free_port()
    spans, metrics = [], []
    async with OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(http_port=port)) as tap:
        listening = [asyncio.create_task(gather(tap.stream_traces(), spans)),
                     asyncio.create_task(gather(tap.stream_metrics(), metrics))]
        await asyncio.sleep(0)  # both have subscribed
        endpoint = f"http://127.0.0.1:{port}"
        collector = {"TRACING_OTLP_ENDPOINT": endpoint, "METRICS_OTLP_ENDPOINT": endpoint, "OTLP_PROTOCOL": "http/protobuf"}

        def run():
            with Service(program, collector) as service:
                return service.job("--steps", "4", "--batch", "2", "--evaluate-every", "2", "--checkpoint-every", "3")

        job = await asyncio.to_thread(run)
        # The last that the service says, it has said before it ended; the tap hands it out as it is polled.
        for awaited in ("likeness.images", "likeness.drained"):
            if not any(metric.name == awaited for metric in metrics):
                await tap.await_metric(lambda metric: metric.name == awaited, timeout=20)
        for _ in range(100):
            if enough(spans, job["id"]):
                break
            await asyncio.sleep(0.1)
        for task in listening:
            task.cancel()
    check(spans, metrics, job["id"])


def attribute(span: Span, key: str) -> str | None:
    return next((value.value.string_value for value in span.attributes if value.key == key), None)


def trace_of(spans: list[Span], job: str) -> list[Span]:
    ids = {span.trace_id for span in spans if attribute(span, "likeness.job.id") == job}
    return [span for span in spans if span.trace_id in ids]


def enough(spans: list[Span], job: str) -> bool:
    return any(span.name == "submit" for span in trace_of(spans, job))


def check(spans: list[Span], metrics: list, job: str):
    trace = trace_of(spans, job)
    assert len({span.trace_id for span in trace}) == 1, "the job is more than one trace"
    calls = [span for span in trace if span.kind in (Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER)]
    steps = Counter(span.name for span in trace if span not in calls and not span.name.startswith("store "))
    assert steps == WANTED, f"heard {dict(steps)}, wanted {dict(WANTED)}"
    ids = {span.span_id for span in trace}
    orphans = [span.name for span in trace if span.parent_span_id and span.parent_span_id not in ids]
    assert not orphans, f"children of nobody: {orphans}"
    for method in ("Avatars/PutSubject", "Avatars/SubmitJob", "Workers/Complete"):
        kinds = {span.kind for span in calls if span.name == f"likeness.v1.{method}"}
        assert kinds == {Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER}, f"{method}: {kinds}"
    names = {metric.name for metric in metrics}
    for name in ("likeness.queue.tasks", "likeness.attempts", "likeness.train.steps", "likeness.images",
                 "likeness.bucket.operation.duration", "rpc.server.call.duration", "process.cpu"):
        assert name in names, f"no {name} in {sorted(names)}"
    print(f"otlp: {len(trace)} spans of one job and {len(names)} metrics heard over OTLP/HTTP")


asyncio.run(main(sys.argv[1]))
