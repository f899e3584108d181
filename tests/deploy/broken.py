"""Installations with one fault each, and the words that the checks must find for it."""

import copy

from rendered import of_kind


def check(fleet, group, hold):
    cases = 0
    for case, words in FAULTS:
        docs = copy.deepcopy(group if case in OF_GROUP else fleet)
        docs = case(docs) or docs
        try:
            hold(docs)
        except AssertionError as error:
            assert words in str(error), f"{case.__name__} is refused for another reason: {error}"
        else:
            raise AssertionError(f"nothing refuses {case.__name__}")
        cases += 1
    return cases


def named(docs, kind, name):
    return next(doc for doc in of_kind(docs, kind) if doc["metadata"]["name"] == name)


def pod(docs, role):
    return named(docs, "Deployment", f"likeness-{role}")["spec"]["template"]["spec"]


def container(docs, role):
    return pod(docs, role)["containers"][0]


def variable(docs, role, name):
    return next(entry for entry in container(docs, role)["env"] if entry["name"] == name)


def collector(docs):
    return next(doc for doc in of_kind(docs, "ConfigMap") if "tracing" in doc["data"])["data"]


def no_workloads(docs):
    return [doc for doc in docs if doc["kind"] not in ("Deployment", "StatefulSet")]


def a_kind_without_a_schema(docs):
    docs.append({"apiVersion": "example.org/v1", "kind": "Gadget", "metadata": {"name": "x"}, "spec": {}})


def a_misspelt_field(docs):
    container(docs, "trainer")["resource"] = {}


def a_misspelt_field_of_keda(docs):
    named(docs, "ScaledObject", "likeness-trainer")["spec"]["maxReplicas"] = 3


def a_misspelt_field_of_cert_manager(docs):
    named(docs, "Certificate", "likeness-coordinator")["spec"]["dnsName"] = ["x"]


def a_misspelt_field_of_external_secrets(docs):
    named(docs, "ExternalSecret", "likeness-store")["spec"]["secretStore"] = {}


def a_misspelt_field_of_a_monitor(docs):
    named(docs, "ServiceMonitor", "likeness")["spec"]["endpoints"][0]["ports"] = "x"


def a_misspelt_field_of_a_group(docs):
    named(docs, "LeaderWorkerSet", "likeness-trainer")["spec"]["leaderWorkerTemplate"]["workerTemplates"] = {}


def a_misspelt_field_of_a_groups_pod(docs):
    template = named(docs, "LeaderWorkerSet", "likeness-trainer")["spec"]["leaderWorkerTemplate"]["workerTemplate"]
    template["spec"]["containers"][0]["command_"] = []


def root(docs):
    pod(docs, "sampler")["securityContext"]["runAsNonRoot"] = False


def root_in_one_container(docs):
    container(docs, "sampler")["securityContext"]["runAsUser"] = 0


def no_seccomp(docs):
    del pod(docs, "sampler")["securityContext"]["seccompProfile"]


def escalation(docs):
    del container(docs, "sampler")["securityContext"]["allowPrivilegeEscalation"]


def a_capability(docs):
    container(docs, "sampler")["securityContext"]["capabilities"]["add"] = ["SYS_ADMIN"]


def a_writable_root(docs):
    del container(docs, "sampler")["securityContext"]["readOnlyRootFilesystem"]


def a_folder_of_the_node(docs):
    pod(docs, "sampler")["volumes"].append({"name": "node", "hostPath": {"path": "/"}})


def an_unknown_flag(docs):
    container(docs, "trainer")["args"].append("--shards=2")


def an_unknown_variable(docs):
    container(docs, "trainer")["env"].append({"name": "LIKENESS__SLOTS", "value": "2"})


def an_unknown_setting(docs):
    settings = next(doc for doc in of_kind(docs, "ConfigMap") if "likeness.toml" in doc["data"])["data"]
    settings["likeness.toml"] += "\nbuckets = 1\n"


def a_value_out_of_range(docs):
    variable(docs, "trainer", "LIKENESS__TRAINER_SLOTS")["value"] = "0"


def a_server_without_tls(docs):
    args = container(docs, "trainer")["args"]
    args[args.index("--server") + 1] = "http://likeness-coordinator:7431"


def a_coordinator_without_tls(docs):
    env = container(docs, "coordinator")["env"]
    env[:] = [entry for entry in env if "TLS" not in entry["name"] and "TRUST" not in entry["name"]]


def a_group_in_the_clear_by_mistake(docs):
    group = named(docs, "LeaderWorkerSet", "likeness-trainer")["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]
    env = group["containers"][0]["env"]
    env[:] = [entry for entry in env if entry["name"] != "LIKENESS__TLS_CLIENT_CA"]


def a_file_that_nothing_mounts(docs):
    variable(docs, "trainer", "LIKENESS__TLS_CA")["value"] = "/etc/ssl/ca.pem"


def a_secret_that_nobody_makes(docs):
    return [doc for doc in docs if doc["metadata"]["name"] != "likeness-store"]


def a_key_that_a_secret_lacks(docs):
    variable(docs, "coordinator", "LIKENESS__STORE")["valueFrom"]["secretKeyRef"]["key"] = "uri"


def too_little_time_to_drain(docs):
    pod(docs, "trainer")["terminationGracePeriodSeconds"] = 60


def no_time_to_be_forgotten(docs):
    del container(docs, "coordinator")["lifecycle"]


def a_probe_of_a_wrong_port(docs):
    container(docs, "trainer")["livenessProbe"]["grpc"]["port"] = 7431


def one_probe_for_both(docs):
    container(docs, "trainer")["readinessProbe"]["grpc"]["service"] = "liveness"


def no_budget(docs):
    return [doc for doc in docs if (doc["kind"], doc["metadata"]["name"]) != ("PodDisruptionBudget", "likeness-trainer")]


def a_service_of_nobody(docs):
    named(docs, "Service", "likeness-coordinator")["spec"]["selector"]["app.kubernetes.io/component"] = "coordinators"


def another_rule(docs):
    named(docs, "PrometheusRule", "likeness")["spec"]["groups"][0]["rules"][0]["expr"] = "vector(1)"


def a_scaler_of_nothing(docs):
    named(docs, "ScaledObject", "likeness-sampler")["spec"]["scaleTargetRef"]["name"] = "likeness-samplers"


def a_scaler_by_what_nobody_tells(docs):
    trigger = named(docs, "ScaledObject", "likeness-sampler")["spec"]["triggers"][0]["metadata"]
    trigger["query"] = trigger["query"].replace("likeness_leases", "likeness_lease")


def a_service_without_a_port(docs):
    named(docs, "Service", "likeness-metrics")["spec"]["ports"][0]["targetPort"] = "metric"


def replicas_that_are_scaled_too(docs):
    named(docs, "Deployment", "likeness-trainer")["spec"]["replicas"] = 3


def an_open_network(docs):
    return [doc for doc in docs if doc["metadata"]["name"] != "default-deny"]


def a_collector_that_nobody_may_call(docs):
    return [doc for doc in docs if doc["metadata"]["name"] != "all-call-collector"]


def a_collector_at_another_port(docs):
    collector(docs)["tracing"] = "http://otel-collector.observability.svc:4318"


def a_collector_without_a_scheme(docs):
    collector(docs)["tracing"] = "otel-collector.observability.svc:4317"


def a_collector_without_a_protocol(docs):
    del collector(docs)["protocol"]


def a_missing_account(docs):
    return [doc for doc in docs if (doc["kind"], doc["metadata"]["name"]) != ("ServiceAccount", "likeness-worker")]


OF_GROUP = [a_misspelt_field_of_a_group, a_misspelt_field_of_a_groups_pod, a_group_in_the_clear_by_mistake]
FAULTS = [
    (no_workloads, "there are no workloads"),
    (a_kind_without_a_schema, "nothing validates example.org/v1 Gadget"),
    (a_misspelt_field, "'resource' was unexpected"),
    (a_misspelt_field_of_keda, "'maxReplicas' was unexpected"),
    (a_misspelt_field_of_cert_manager, "'dnsName' was unexpected"),
    (a_misspelt_field_of_external_secrets, "'secretStore' was unexpected"),
    (a_misspelt_field_of_a_monitor, "'ports' was unexpected"),
    (a_misspelt_field_of_a_group, "'workerTemplates' was unexpected"),
    (a_misspelt_field_of_a_groups_pod, "'command_' was unexpected"),
    (root, "may run as root"),
    (root_in_one_container, "may run as root"),
    (no_seccomp, "has no seccomp profile"),
    (escalation, "may gain privileges"),
    (a_capability, "keeps capabilities"),
    (a_writable_root, "may write to its root file system"),
    (a_folder_of_the_node, "volume node is of a kind that is not allowed"),
    (an_unknown_flag, "unexpected argument '--shards'"),
    (an_unknown_variable, "unknown setting `slots`"),
    (an_unknown_setting, "unknown setting `buckets`"),
    (a_value_out_of_range, "the setting trainer_slots is 0"),
    (a_server_without_tls, "without TLS the token would travel in the clear"),
    (a_coordinator_without_tls, "without TLS only this machine may call"),
    (a_group_in_the_clear_by_mistake, "set tls_client_cert, tls_client_key, tls_client_ca and trust_domain"),
    (a_file_that_nothing_mounts, "/etc/ssl/ca.pem is under no mount"),
    (a_secret_that_nobody_makes, "nothing makes the secret likeness-store"),
    (a_key_that_a_secret_lacks, "secret likeness-store has no uri"),
    (too_little_time_to_drain, "terminationGracePeriodSeconds is 60, a drain takes 130"),
    (no_time_to_be_forgotten, "preStop is missing"),
    (a_probe_of_a_wrong_port, "livenessProbe asks port 7431, where nothing listens"),
    (one_probe_for_both, "probes ask for {'liveness'}"),
    (no_budget, "has no PodDisruptionBudget"),
    (a_service_of_nobody, "which nothing has"),
    (another_rule, "run deploy/spread-rules.sh"),
    (a_scaler_of_nothing, "which is not there"),
    (a_scaler_by_what_nobody_tells, "asks for likeness_lease, which nothing tells"),
    (a_service_without_a_port, "has no port metric"),
    (replicas_that_are_scaled_too, "and scaled as well"),
    (an_open_network, "no NetworkPolicy denies what is not allowed"),
    (a_collector_that_nobody_may_call, "no NetworkPolicy lets it be called"),
    (a_collector_at_another_port, "no NetworkPolicy lets it be called"),
    (a_collector_without_a_scheme, "is not accepted; http://HOST:PORT"),
    (a_collector_without_a_protocol, "has no protocol"),
    (a_missing_account, "there is no ServiceAccount likeness-worker"),
]
