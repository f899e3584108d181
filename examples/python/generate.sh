#!/usr/bin/env bash
# Generates the Python client from the protos into examples/python/likeness/v1; PYTHON (python3) must have grpcio-tools.
set -euo pipefail
cd "$(dirname "$0")"
"${PYTHON:-python3}" -m grpc_tools.protoc -I ../../proto --python_out=. --pyi_out=. --grpc_python_out=. \
    likeness/v1/common.proto likeness/v1/avatars.proto
