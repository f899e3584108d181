#!/usr/bin/env bash
# Puts deploy/alerts/likeness.rules.yaml where kustomize and Helm can read it, neither of which looks outside its own folder. tests/deploy.sh fails
# where a copy is not what the rules are.
set -euo pipefail
cd "$(dirname "$0")"
rules=alerts/likeness.rules.yaml
{
    echo "# Made from deploy/$rules by deploy/spread-rules.sh; change that, then run this."
    printf '%s\n' 'apiVersion: monitoring.coreos.com/v1' 'kind: PrometheusRule' 'metadata: {name: likeness}' 'spec:'
    sed 's/^\(.\)/  \1/' "$rules"
} > k8s/components/monitoring/rules.yaml
mkdir -p helm/likeness/files
cp "$rules" helm/likeness/files/
