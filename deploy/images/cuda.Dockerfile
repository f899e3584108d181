# Likeness for NVIDIA GPUs (CUDA 13) and for CPUs. As cpu.Dockerfile, with --build-arg CUDA_COMPUTE_CAP=90 for Hopper, 80 for Ampere, 89 for Ada.
# The toolkit comes from NVIDIA's wheels (deploy/cuda-toolkit.sh), of exact versions; the driver comes from the node.
FROM rust:1.95.0-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ python3 python3-venv ca-certificates && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ARG LIKENESS_COMMIT
ARG LIKENESS_DIRTY
ARG SOURCE_DATE_EPOCH
ARG CUDA_COMPUTE_CAP=90
RUN deploy/images/build.sh cuda /image

FROM scratch
COPY --from=build /image/ /
# Where NVIDIA's container runtime puts the driver, which no cache of the loader knows here.
ENV LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu:/usr/local/nvidia/lib64
ENV NVIDIA_VISIBLE_DEVICES=all
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV LIKENESS__STATE=/var/lib/likeness
USER 65532:65532
ENTRYPOINT ["/opt/likeness/bin/likeness"]
CMD ["--help"]
