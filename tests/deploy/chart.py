"""The Helm chart: rendered with several values it must hold as the overlays do, say what the values say, and refuse values that make no sense."""

import json
import tempfile

import rendered
from rendered import charted, of_kind

WORKER = {"resources": {"limits": {"memory": "8Gi"}}}
SAMPLER = WORKER | {"role": "sampler", "slots": 4, "gpus": 1, "autoscaling": {"min": 1, "max": 8}}
TRAINER = WORKER | {"role": "trainer", "slots": 8, "gpus": 1, "drainSeconds": 240, "autoscaling": {"min": 2, "max": 16}}
FLEET = {
    "store": {"kind": "postgres"},
    "access": {"secret": "likeness-access"},
    "bucket": {"kind": "s3", "url": "s3://avatars/live", "endpoint": "https://s3.example.org"},
    "coordinator": {"replicas": 3},
    "externalSecrets": {"enabled": True},
    "monitoring": {"enabled": True},
    "otlp": {"traces": "http://tempo.tracing.svc:4318", "metrics": "https://collector.tracing.svc:4319/v1/metrics",
             "protocol": "http/protobuf", "namespace": "tracing"},
    "image": {"pullSecrets": ["one", "two"]},
    "workers": {"trainer": TRAINER, "sampler": SAMPLER},
}
GROUPS = FLEET | {"workers": {"trainer": None, "sampler": SAMPLER, "wide": WORKER | {
    "role": "trainer", "slots": 32, "gpus": 8, "sharedMemory": "16Gi", "group": {"size": 4},
    "autoscaling": {"min": 1, "max": 2}}}}
REFUSED = [
    ({"coordinator": {"replicas": 2}}, "replicas"),
    ({"store": {"kind": "postgres"}}, "secret"),
    ({"store": {"kind": "mysql"}}, "kind"),
    ({"bucket": {"kind": "s3"}}, "url"),
    ({"settings": {"token": "secret"}}, "token"),
    ({"model": {"path": "/models/sd15"}}, "claim"),
    ({"workers": {"trainer": {"gpu": 1}}}, "gpu"),
    ({"workers": {"trainer": {"autoscaling": {"min": 1, "max": 2}}}}, "slots"),
    ({"workers": {"sampler": {"group": {"size": 2}}}}, "role"),
    ({"otlp": {"traces": "http://tempo.tracing.svc"}}, "traces"),
    ({"otlp": {"protocol": "http"}}, "protocol"),
    ({"replicas": 2}, "replicas"),
]


def check(helm, chart, hold):
    def render(values):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(values, file)
            file.flush()
            return charted(helm, chart, "--values", file.name)

    rendered.run([helm, "lint", "--strict", chart])
    for name, values, says in [("its defaults", {}, defaults), ("a fleet", FLEET, fleet), ("groups of nodes", GROUPS, groups)]:
        # The claim with models is the operator's.
        if values:
            values = values | {"model": {"path": "/models/sd15", "claim": "models"}}
        docs = render(values)
        says(docs)
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models"},
                 "spec": {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}}
        print(f"chart with {name}: {hold(docs + [claim] * bool(values))}")
    for values, word in REFUSED:
        try:
            render(values)
        except AssertionError as error:
            assert "values don't meet the specifications" in str(error) and word in str(error), f"{values}: {error}"
        else:
            raise AssertionError(f"the chart takes {values}")
    print(f"chart: {len(REFUSED)} sets of values are refused")


def one(docs, kind, name):
    found = [doc for doc in of_kind(docs, kind) if doc["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]["spec"]


def container(workload):
    return workload["template"]["spec"]["containers"][0]


def variables(container):
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def defaults(docs):
    coordinator = one(docs, "Deployment", "likeness-coordinator")
    assert (coordinator["replicas"], coordinator["strategy"]["type"]) == (1, "Recreate")
    assert not [doc for doc in of_kind(docs, "NetworkPolicy") if "all-send" in doc["metadata"]["name"]]
    assert not of_kind(docs, "ScaledObject", "ExternalSecret", "ServiceMonitor", "LeaderWorkerSet")
    trainer = one(docs, "Deployment", "likeness-trainer")
    assert "podAffinity" in trainer["template"]["spec"]["affinity"], "the bucket's volume is of one node"
    assert container(trainer)["image"] == "registry.example/likeness:0.1.0"


def fleet(docs):
    assert one(docs, "Deployment", "likeness-coordinator")["replicas"] == 3
    trainer = one(docs, "Deployment", "likeness-trainer")
    assert trainer["template"]["spec"]["terminationGracePeriodSeconds"] == 300
    assert container(trainer)["image"] == "registry.example/likeness:0.1.0-cuda"
    assert container(trainer)["resources"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": 1}
    assert [secret["name"] for secret in trainer["template"]["spec"]["imagePullSecrets"]] == ["one", "two"]
    assert variables(container(trainer)).items() >= {"LIKENESS__TRAINER_SLOTS": "8", "LIKENESS__DEVICE": "cuda"}.items()
    scaler = one(docs, "ScaledObject", "likeness-trainer")
    assert (scaler["minReplicaCount"], scaler["maxReplicaCount"]) == (2, 16)
    assert scaler["triggers"][0]["metadata"]["threshold"] == "8"
    settings = next(doc for doc in of_kind(docs, "ConfigMap"))["data"]["likeness.toml"]
    assert 'tracing_otlp_endpoint = "http://tempo.tracing.svc:4318"' in settings and 'otlp_protocol = "http/protobuf"' in settings
    ports = [one(docs, "NetworkPolicy", f"likeness-all-send-{what}")["egress"][0]["ports"][0]["port"] for what in ("traces", "metrics")]
    assert ports == [4318, 4319]
    made = {doc["metadata"]["name"] for doc in of_kind(docs, "ExternalSecret")}
    assert made == {"likeness-access", "likeness-store", "likeness-bucket"}


def groups(docs):
    assert [doc["metadata"]["name"] for doc in of_kind(docs, "Deployment")] == ["likeness-coordinator", "likeness-sampler"]
    group = one(docs, "LeaderWorkerSet", "likeness-wide")["leaderWorkerTemplate"]
    assert group["size"] == 4 and "replicas" not in group
    identity = next(volume["csi"] for volume in group["workerTemplate"]["spec"]["volumes"] if volume["name"] == "identity")
    says = {name.rpartition("/")[2]: value for name, value in identity["volumeAttributes"].items()}
    assert says["uri-sans"] == "spiffe://likeness.cluster.local/likeness/trainer/${POD_NAME}"
    assert says["dns-names"] == "${POD_NAME}.likeness-wide.${POD_NAMESPACE}" and "server auth" in says["key-usages"]
    assert variables(container({"template": group["workerTemplate"]}))["LIKENESS__RANKS"] == "8"
    assert one(docs, "ScaledObject", "likeness-wide")["scaleTargetRef"]["kind"] == "LeaderWorkerSet"
    assert one(docs, "NetworkPolicy", "likeness-within-groups")["ingress"]
