"""Arguments, variables and mounted files of every container of ours, read by the real binary with --check-config."""

import json
import os
import pathlib
import subprocess
import tempfile
import urllib.parse

from rendered import of_kind

# kubectl's and kubelet's own, and what follows the calls that are going on.
SPARE_SECONDS = 10
COORDINATOR_DRAIN_SECONDS = 5
WRITTEN = "a" * 64


class Binary:
    def __init__(self, path, certificate, key):
        self.path, self.certificate, self.key = path, certificate, key

    def check(self, pods, docs):
        found = [(pod, container) for pod in pods for container in pod.containers if "likeness" in container["image"]]
        assert found, "no container of ours"
        for pod, container in found:
            try:
                settings = self.settings(pod, container, docs)
                grace(pod, container, settings)
                ports(container, settings)
                collector(pod, settings, docs)
            except AssertionError as error:
                raise AssertionError(f"{pod.name}, container {container['name']}: {error}") from None

    def settings(self, pod, container, docs):
        """What the container says is in force, with all that is mounted in a folder in place of its root."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            mounts = self.mounted(root, pod, container, docs)

            def placed(text):
                for mount in sorted(mounts, key=len, reverse=True):
                    if text == mount or text.startswith((mount + "/", f"file://{mount}/")):
                        return text.replace(mount, str(root) + mount, 1)
                assert not text.startswith("/") or "/models" in text, f"{text} is under no mount"
                return text

            values = {entry["name"]: value(entry, docs, pod) for entry in container.get("env", [])}
            variables = {name: placed(value) for name, value in values.items() if value is not None}
            command = [self.path, *map(placed, container["args"]), "--check-config", "--json"]
            environment = {"PATH": os.environ["PATH"]} | pod.variables | variables
            done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
            assert done.returncode == 0, f"ends with {done.returncode}: {done.stderr.strip()}"
            return {row["key"]: row["value"] for row in json.loads(done.stdout)}

    def mounted(self, root, pod, container, docs):
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        mounts = []
        for mount in container.get("volumeMounts", []):
            assert mount["name"] in volumes, f"volume {mount['name']} is mounted and is not there"
            path = root / mount["mountPath"].lstrip("/")
            files = self.files(volumes[mount["name"]], docs)
            if "subPath" in mount and files:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(files[mount["subPath"]])
            else:
                path.mkdir(parents=True, exist_ok=True)
                for name, text in files.items():
                    (path / name).write_text(text)
            mounts.append(mount["mountPath"])
        return mounts

    def files(self, volume, docs):
        if "configMap" in volume:
            return data(docs, "ConfigMap", volume["configMap"]["name"])
        pair = {"tls.crt": self.certificate, "tls.key": self.key, "ca.crt": self.certificate}
        if "csi" in volume:
            return pair
        if "secret" not in volume:
            return {}
        names = secret(docs, volume["secret"]["secretName"])
        items = volume["secret"].get("items") or [{"key": name, "path": name} for name in names]
        assert all(item["key"] in names for item in items), f"secret {volume['secret']['secretName']} has {names}"
        return {item["path"]: pair.get(item["key"], WRITTEN) for item in items}


def value(entry, docs, pod):
    source = entry.get("valueFrom", {})
    if "value" in entry:
        return entry["value"]
    if "fieldRef" in source:
        return pod.owner["metadata"]["name"] + "-0"
    if "configMapKeyRef" in source:
        reference = source["configMapKeyRef"]
        found = data(docs, "ConfigMap", reference["name"]).get(reference["key"])
        assert found is not None or reference.get("optional"), f"ConfigMap {reference['name']} has no {reference['key']}"
        return found
    reference = source["secretKeyRef"]
    assert reference["key"] in secret(docs, reference["name"]), f"secret {reference['name']} has no {reference['key']}"
    return "postgres://ada:secret@db/likeness" if entry["name"] == "LIKENESS__STORE" else WRITTEN


def data(docs, kind, name):
    for doc in docs:
        if (doc["kind"], doc["metadata"]["name"]) == (kind, name):
            return doc["data"]
    raise AssertionError(f"there is no {kind} {name}")


def secret(docs, name):
    """Names of what a secret holds, whoever makes it."""
    for doc in docs:
        spec = doc.get("spec", {})
        if doc["kind"] == "Certificate" and spec["secretName"] == name:
            return ["tls.crt", "tls.key", "ca.crt"]
        if doc["kind"] == "ExternalSecret" and spec["target"]["name"] == name:
            return [entry["secretKey"] for entry in spec["data"]]
        if (doc["kind"], doc["metadata"]["name"]) == ("Secret", name):
            return list(doc.get("stringData", {}))
    raise AssertionError(f"nothing makes the secret {name}")


def grace(pod, container, settings):
    """Nothing is killed that still hands back its work."""
    sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    is_worker = container["args"][0] in ("trainer", "sampler")
    drain = float(settings["drain_seconds"]) if is_worker else COORDINATOR_DRAIN_SECONDS
    needed, given = sleep + drain + SPARE_SECONDS, pod.spec.get("terminationGracePeriodSeconds", 30)
    assert given >= needed, f"terminationGracePeriodSeconds is {given}, a drain takes {needed:.0f}"
    assert is_worker or sleep > 0, "a coordinator must be asked nothing new before it stops: preStop is missing"


def ports(container, settings):
    """What is probed and what is exposed is listened on."""
    role = container["args"][0]
    names = ["health_listen", "metrics_listen"] + ["listen", "page_listen"] * (role == "coordinator")
    listens = [settings[name].rpartition(":") for name in names if settings.get(name)]
    open_at = {int(port) for host, _, port in listens if host not in ("127.0.0.1", "[::1]")}
    open_at |= {7432} if role == "trainer" else set()
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
        assert probe in container, f"{probe} is missing"
        port = container[probe].get("grpc", container[probe].get("httpGet", {})).get("port")
        assert port in open_at, f"{probe} asks port {port}, where nothing listens"
    services = {container[probe]["grpc"]["service"] for probe in ["livenessProbe", "readinessProbe"]}
    assert services == {"liveness", "readiness"}, f"probes ask for {services}"
    for port in container.get("ports", []):
        assert port["containerPort"] in open_at, f"port {port['containerPort']} is exposed, where nothing listens"


def collector(pod, settings, docs):
    """Who tells a collector may call it."""
    for name in ["tracing_otlp_endpoint", "metrics_otlp_endpoint"]:
        if not settings.get(name):
            continue
        url = urllib.parse.urlparse(settings[name])
        namespace = url.hostname.split(".")[1]
        assert any(allows(policy, pod, namespace, url.port) for policy in of_kind(docs, "NetworkPolicy")), (
            f"{name} is {settings[name]}, and no NetworkPolicy lets it be called")


def allows(policy, pod, namespace, port):
    if not policy["spec"]["podSelector"].get("matchLabels", {}).items() <= pod.labels.items():
        return False
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    return any(peer in rule.get("to", []) and {"port": port, "protocol": "TCP"} in rule.get("ports", [])
               for rule in policy["spec"].get("egress", []))
