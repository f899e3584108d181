#!/usr/bin/env python3
"""Turns a folder of photos into avatars, by gRPC alone: put the subject, submit a job, watch it, download what it drew."""

import argparse
import hashlib
import os
import sys
import uuid
from pathlib import Path

import grpc
from grpc_status import rpc_status

sys.path.insert(0, str(Path(__file__).parent))  # where generate.sh writes the package `likeness`
from likeness.v1 import avatars_pb2, avatars_pb2_grpc, common_pb2

STATE = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local/share")) / "likeness"
CHUNK = 1 << 20  # bytes; the most that a message of an upload may hold
PHOTOS = {".png", ".jpg", ".jpeg", ".webp"}
MAX_MESSAGE = 64 << 20  # bytes; a job of many subjects is told in one message


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--subject", required=True, help="the subject's name")
    parser.add_argument("--init", required=True, help="what the subject is before anything is learned, like `person`")
    parser.add_argument("--prompt", action="append", required=True, help="what to draw, with {subject}; may be given again")
    parser.add_argument("--seed", type=int, action="append", help="an avatar of each prompt for each seed (default: 0)")
    parser.add_argument("--steps", type=int, help="learning steps at most (default: the server's)")
    parser.add_argument("--attest-by", required=True, help="who says that the photos may be used")
    parser.add_argument("--statement", required=True, help="what that person says")
    parser.add_argument("--out", type=Path, required=True, help="folder to write avatars to")
    parser.add_argument("--state", type=Path, default=STATE, help="state folder of a server on this machine (default: %(default)s)")
    parser.add_argument("--server", help="HOST:PORT (default: the server of the state folder)")
    parser.add_argument("--token-file", type=Path, help="file with the access token (default: the state folder's)")
    parser.add_argument("--ca", type=Path, help="certificates to trust, PEM; with it the server is called by TLS")
    return parser.parse_args()


class Bearer(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor):
    """Sends the token with every call. (Call credentials would be refused without TLS, as on loopback.)"""

    def __init__(self, token):
        self.metadata = [("authorization", f"Bearer {token}")]

    def _send(self, continuation, details, request):
        return continuation(details._replace(metadata=[*(details.metadata or []), *self.metadata]), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = _send


def connect(args):
    server = args.server or (args.state / "address").read_text().strip()
    token = (args.token_file or args.state / "token").read_text().strip()
    options = [("grpc.max_receive_message_length", MAX_MESSAGE)]
    if args.ca:
        channel = grpc.secure_channel(server, grpc.ssl_channel_credentials(args.ca.read_bytes()), options)
    else:
        channel = grpc.insecure_channel(server, options)
    return avatars_pb2_grpc.AvatarsStub(grpc.intercept_channel(channel, Bearer(token)))


def upload(args):
    """The parts of PutSubject: who and whether it is allowed, then each photo's header and bytes."""
    consent = avatars_pb2.Consent(attested_by=args.attest_by, capacity=avatars_pb2.CAPACITY_SELF, statement=args.statement)
    yield avatars_pb2.PutSubjectRequest(header=avatars_pb2.SubjectHeader(subject=args.subject, consent=consent))
    for path in sorted(path for path in args.photos.iterdir() if path.suffix.lower() in PHOTOS):
        data = path.read_bytes()
        yield avatars_pb2.PutSubjectRequest(photo=avatars_pb2.PhotoHeader(file_name=path.name, size=len(data)))
        for start in range(0, len(data), CHUNK):
            yield avatars_pb2.PutSubjectRequest(chunk=data[start : start + CHUNK])


def job_of(args):
    prompts = [common_pb2.Prompt(text=text, seeds=args.seed or []) for text in args.prompt]
    return avatars_pb2.SubmitJobRequest(
        idempotency_key=str(uuid.uuid4()),  # the same key again would answer with the same job
        subjects=[avatars_pb2.JobSubject(name=args.subject, init=args.init)],
        train=common_pb2.TrainSpec(max_steps=args.steps),
        render=common_pb2.RenderSpec(prompts=prompts),
    )


def watch(stub, job):
    """Prints how far the job is until it has ended; its last state."""
    for job in stub.WatchJob(avatars_pb2.WatchJobRequest(job_id=job.id)):
        for subject in job.subjects:
            state = avatars_pb2.SubjectState.Name(subject.state).removeprefix("SUBJECT_STATE_").lower()
            training, drawn = subject.training, subject.rendering
            print(
                f"{subject.subject}: {state}, step {training.step}/{training.max_steps}, loss {training.loss:.4f}, "
                f"{drawn.avatars_done}/{drawn.avatars_total} avatars",
                flush=True,
            )
    return job


def download(stub, avatar, folder):
    """Writes an avatar's file, whole or not at all."""
    chunks = stub.Download(avatars_pb2.DownloadRequest(key=avatar.object.key))
    data = b"".join(chunk.data for chunk in chunks)
    if hashlib.sha256(data).digest() != avatar.object.sha256:
        sys.exit(f"{avatar.object.key} came damaged")
    path = folder / Path(avatar.object.key).name
    path.write_bytes(data)
    return path


def main():
    args = arguments()
    stub = connect(args)
    stored = stub.PutSubject(upload(args))
    for warning in stored.warnings:
        print(f"warning: {warning.message}")
    print(f"{len(stored.subject.photos)} photos of {args.subject} are stored")
    job = watch(stub, stub.SubmitJob(job_of(args)))
    for subject in job.subjects:
        if subject.HasField("error"):
            print(f"{subject.subject} failed: {subject.error.message}", file=sys.stderr)
    args.out.mkdir(parents=True, exist_ok=True)
    for avatar in (avatar for subject in job.subjects for avatar in subject.avatars):
        print(download(stub, avatar, args.out))
    return 0 if job.state == avatars_pb2.JOB_STATE_SUCCEEDED else 1


def refusal(error):
    """The code and sentence of a refusal."""
    rich = rpc_status.from_call(error)
    for detail in rich.details if rich else []:
        said = common_pb2.ErrorDetail()
        if detail.Unpack(said):
            return f"{common_pb2.ErrorCode.Name(said.code)}: {said.message}"
    return f"{error.code().name}: {error.details()}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except grpc.RpcError as error:
        sys.exit(refusal(error))
