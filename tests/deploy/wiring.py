"""What names another thing names one that is there."""

import pathlib
import re

import yaml
from rendered import of_kind

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"
METRICS = (DEPLOY / "metrics.md").read_text()
RULES = yaml.safe_load((DEPLOY / "alerts/likeness.rules.yaml").read_text())
WORKLOADS = ["Deployment", "StatefulSet", "LeaderWorkerSet"]


def check(docs, pods):
    assert pods, "there are no workloads"
    assert len({identity(doc) for doc in docs}) == len(docs), "two documents of one name"
    for doc in of_kind(docs, "Service", "PodDisruptionBudget"):
        selector = doc["spec"]["selector"]
        selected(doc, selector.get("matchLabels", selector), [pod.labels for pod in pods])
    for doc in of_kind(docs, "Service"):
        served(doc, pods)
    for doc in of_kind(docs, "ServiceMonitor"):
        services = of_kind(docs, "Service")
        selected(doc, doc["spec"]["selector"]["matchLabels"], [service["metadata"]["labels"] for service in services])
    for doc in of_kind(docs, "PrometheusRule"):
        assert doc["spec"] == RULES, "a copy of the rules is not what they are: run deploy/spread-rules.sh"
    for doc in of_kind(docs, "ScaledObject"):
        scaled(doc, docs)
    budgets = [doc["spec"]["selector"]["matchLabels"].items() for doc in of_kind(docs, "PodDisruptionBudget")]
    for pod in pods:
        references(pod, docs)
        assert any(budget <= pod.labels.items() for budget in budgets), f"{pod.name} has no PodDisruptionBudget"
    network(docs, pods)


def identity(doc):
    return doc["apiVersion"], doc["kind"], doc["metadata"].get("namespace"), doc["metadata"]["name"]


def selected(doc, labels, among):
    hit = any(labels.items() <= other.items() for other in among)
    assert hit, f"{doc['kind']} {doc['metadata']['name']} selects {labels}, which nothing has"


def served(doc, pods):
    """Whoever a Service sends to has a port of that name."""
    for pod in pods:
        if doc["spec"]["selector"].items() <= pod.labels.items():
            names = {port.get("name") for container in pod.containers for port in container.get("ports", [])}
            for port in doc["spec"]["ports"]:
                assert port["targetPort"] in names, f"{pod.name} has no port {port['targetPort']}, which a Service sends to"


def scaled(doc, docs):
    target = doc["spec"]["scaleTargetRef"]
    found = [d for d in of_kind(docs, *WORKLOADS) if (d["kind"], d["apiVersion"], d["metadata"]["name"])
             == (target["kind"], target["apiVersion"], target["name"])]
    assert found, f"ScaledObject {doc['metadata']['name']} scales {target}, which is not there"
    assert "replicas" not in found[0]["spec"], f"replicas of {target['name']} are set, and scaled as well"
    for trigger in doc["spec"]["triggers"]:
        for metric in re.findall(r"likeness_\w+", trigger["metadata"]["query"]):
            assert f"`{metric}`" in METRICS, f"ScaledObject {doc['metadata']['name']} asks for {metric}, which nothing tells"


def references(pod, docs):
    names = {(doc["kind"], doc["metadata"]["name"]) for doc in docs}
    account = pod.spec.get("serviceAccountName", "default")
    assert ("ServiceAccount", account) in names, f"{pod.name}: there is no ServiceAccount {account}"
    for volume in pod.spec.get("volumes", []):
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        assert not claim or ("PersistentVolumeClaim", claim) in names, f"{pod.name}: there is no claim {claim}"
        issuer = volume.get("csi", {}).get("volumeAttributes", {}).get("csi.cert-manager.io/issuer-name")
        assert not issuer or ("Issuer", issuer) in names, f"{pod.name}: there is no Issuer {issuer}"


def network(docs, pods):
    """Everything is denied, and each pod of ours may yet be reached or reach somebody."""
    policies = of_kind(docs, "NetworkPolicy")
    denies = [p["spec"]["podSelector"].get("matchLabels", {}).items() for p in policies
              if set(p["spec"]["policyTypes"]) == {"Ingress", "Egress"} and not p["spec"].get("ingress") and not p["spec"].get("egress")]
    for pod in pods:
        assert any(deny <= pod.labels.items() for deny in denies), f"{pod.name}: no NetworkPolicy denies what is not allowed"
    for policy in policies:
        selector = policy["spec"]["podSelector"].get("matchLabels", {})
        selected(policy, selector, [pod.labels for pod in pods])
        for rule in policy["spec"].get("ingress", []) + policy["spec"].get("egress", []):
            for peer in rule.get("from", []) + rule.get("to", []):
                if "podSelector" in peer and "namespaceSelector" not in peer:
                    selected(policy, peer["podSelector"].get("matchLabels", {}), [pod.labels for pod in pods])
