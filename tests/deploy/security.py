"""Kubernetes' Pod Security Standard "restricted", and a root file system that is only read."""

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
HOST = ["hostNetwork", "hostPID", "hostIPC"]


def check(pods):
    for pod in pods:
        for fault in faults(pod):
            raise AssertionError(f"{pod.name}: {fault}")


def faults(pod):
    for field in HOST:
        if pod.spec.get(field):
            yield f"{field} is set"
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "the token of its account is mounted"
    for volume in pod.spec.get("volumes", []):
        if not set(volume) - {"name"} <= VOLUMES:
            yield f"volume {volume['name']} is of a kind that is not allowed"
    whole = pod.spec.get("securityContext", {})
    for container in pod.containers:
        own = container.get("securityContext", {})
        yield from (f"container {container['name']}: {fault}" for fault in container_faults(whole | own, own, container))


def container_faults(context, own, container):
    if context.get("runAsNonRoot") is not True or context.get("runAsUser", 1) == 0:
        yield "may run as root"
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
        yield "may gain privileges"
    capabilities = own.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "keeps capabilities"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root file system"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "takes a port of its node"
    if "memory" not in container.get("resources", {}).get("limits", {}):
        yield "has no limit of memory"
