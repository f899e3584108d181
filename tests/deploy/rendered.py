"""What kustomize and Helm make of the files in deploy/, and the pods in it."""

import subprocess
from dataclasses import dataclass

import yaml


@dataclass
class Pod:
    """A pod as a workload makes it."""

    owner: dict
    labels: dict
    spec: dict
    variables: dict  # that the cluster adds to every container

    @property
    def name(self):
        return f"{self.owner['kind']} {self.owner['metadata']['name']}"

    @property
    def containers(self):
        return self.spec.get("initContainers", []) + self.spec["containers"]


def kustomized(kubectl, folder):
    return documents(run([kubectl, "kustomize", folder]))


def charted(helm, chart, *arguments):
    return documents(run([helm, "template", "likeness", chart, "--namespace", "likeness", *arguments]))


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def run(command, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    if done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def of_kind(docs, *kinds):
    return [doc for doc in docs if doc["kind"] in kinds]


def pods(docs):
    made = []
    for doc in of_kind(docs, "Deployment", "StatefulSet", "DaemonSet", "Job"):
        made.append(pod(doc, doc["spec"]["template"], {}))
    for doc in of_kind(docs, "LeaderWorkerSet"):
        group, name = doc["spec"]["leaderWorkerTemplate"], doc["metadata"]["name"]
        leader = group.get("leaderTemplate") or group["workerTemplate"]
        size = group.get("size", 1)
        told = {"LWS_LEADER_ADDRESS": f"{name}-0.{name}.likeness", "LWS_GROUP_SIZE": str(size)}
        made.append(pod(doc, leader, told | {"LWS_WORKER_INDEX": "0"}))
        made += [pod(doc, group["workerTemplate"], told | {"LWS_WORKER_INDEX": str(size - 1)})] * (size > 1)
    return made


def pod(owner, template, variables):
    return Pod(owner, template["metadata"].get("labels", {}), template["spec"], variables)
