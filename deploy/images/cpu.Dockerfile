# Likeness for CPUs. From the project's folder:
#   docker build -f deploy/images/cpu.Dockerfile -t likeness:0.1.0 --build-arg LIKENESS_COMMIT="$(git rev-parse HEAD)" \
#     --build-arg LIKENESS_DIRTY=false --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" .
# The base is pinned by its exact tag: no digest could be looked up where this was written. Put one behind it (@sha256:…) when you mirror it.
FROM rust:1.95.0-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ python3 ca-certificates && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ARG LIKENESS_COMMIT
ARG LIKENESS_DIRTY
ARG SOURCE_DATE_EPOCH
RUN deploy/images/build.sh cpu /image

# Nothing but what build.sh laid out: no shell, no package manager.
FROM scratch
COPY --from=build /image/ /
ENV LIKENESS__STATE=/var/lib/likeness
USER 65532:65532
ENTRYPOINT ["/opt/likeness/bin/likeness"]
CMD ["--help"]
