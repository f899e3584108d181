"""All checks of deploy/ for Kubernetes; see tests/deploy.sh. Usage: check.py TOOLS BINARY"""

import pathlib
import subprocess
import sys
import tempfile

import broken
import configuration
import rendered
import schemas
import security
import wiring

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"
OVERLAYS = ["single", "fleet", "gpu-group"]
CHART = DEPLOY / "helm/likeness"


def certificate(folder):
    """A certificate and its key, for files that are mounted from secrets."""
    rendered.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                  "-subj", "/CN=test", "-keyout", f"{folder}/key", "-out", f"{folder}/crt"])
    return (pathlib.Path(folder) / "crt").read_text(), (pathlib.Path(folder) / "key").read_text()


def hold(docs, binary):
    """All that must hold of an installation."""
    pods = rendered.pods(docs)
    wiring.check(docs, pods)
    schemas.check(docs)
    security.check(pods)
    binary.check(pods, docs)
    return f"{len(docs)} documents, {len(pods)} kinds of pods"


def main(tools, program):
    with tempfile.TemporaryDirectory() as folder:
        binary = configuration.Binary(program, *certificate(folder))
    kubectl, helm = f"{tools}/kubectl", f"{tools}/helm"
    for overlay in OVERLAYS:
        docs = rendered.kustomized(kubectl, DEPLOY / "k8s/overlays" / overlay)
        print(f"overlay {overlay}: {hold(docs, binary)}")
    with tempfile.TemporaryDirectory(dir=DEPLOY / "k8s/overlays") as folder:
        docs = rendered.kustomized(kubectl, models_from_bucket(folder))
        print(f"overlay fleet, model from the bucket: {hold(docs, binary)}")
    told = {}
    for overlay in ["fleet", "gpu-group"]:
        with tempfile.TemporaryDirectory(dir=DEPLOY / "k8s/overlays") as folder:
            told[overlay] = rendered.kustomized(kubectl, told_of(folder, overlay))
        print(f"overlay {overlay}, with a collector: {hold(told[overlay], binary)}")
    if CHART.exists():
        import chart
        chart.check(helm, CHART, lambda docs: hold(docs, binary))
    print(f"{broken.check(told['fleet'], told['gpu-group'], lambda docs: hold(docs, binary))} broken installations are refused, each for its fault")


def models_from_bucket(folder):
    """The fleet with the other way of having a model."""
    fleet = (DEPLOY / "k8s/overlays/fleet/kustomization.yaml").read_text()
    assert "components/models-volume" in fleet
    for file in (DEPLOY / "k8s/overlays/fleet").iterdir():
        (pathlib.Path(folder) / file.name).write_text(file.read_text())
    (pathlib.Path(folder) / "kustomization.yaml").write_text(fleet.replace("models-volume", "models-bucket"))
    return folder


def told_of(folder, overlay):
    """An overlay of one's own that sends traces and numbers to a collector."""
    (pathlib.Path(folder) / "kustomization.yaml").write_text(f"""
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: likeness
resources: [../{overlay}]
components: [../../components/otlp]
patches:
  - patch: |
      apiVersion: v1
      kind: ConfigMap
      metadata: {{name: likeness-collector}}
      data: {{metrics: "http://otel-collector.observability.svc:4317"}}
""")
    return folder


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (AssertionError, subprocess.SubprocessError) as error:
        sys.exit(f"deploy: {error}")
