//! The names of all settings, and the nearest one to a name that is none.

use super::DEFAULT_LISTEN;

/// A setting that exists.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name in files; `LIKENESS__` and the upper-case name in the environment.
    pub name: &'static str,
    /// Its default; none: not set, or found out when needed.
    pub default: Option<&'static str>,
    /// What it means.
    pub help: &'static str,
}

const fn key(name: &'static str, default: Option<&'static str>, help: &'static str) -> Key {
    Key { name, default, help }
}

/// Every setting. The file, the environment and the flags know no others.
pub const KEYS: &[Key] = &[
    key("model", None, "base model directory, Stable Diffusion 1.x or 2.x; default: the bundled avatar-tiny"),
    key(
        "model_cache",
        None,
        "folder, its owner's alone, that keeps base models as they are computed with, each as large as its weights: later starts are quicker, and processes share memory; default: nothing is kept",
    ),
    key("state", None, "state folder; default: ~/.local/share/likeness"),
    key("server", None, "server that client and workers call; default: the address in the state folder"),
    key("token", None, "access token; default: the file `token` in the state folder"),
    key("token_file", None, "file that holds the access token"),
    key("log", None, "log filter, like `info` or `likeness_worker=debug`; default: info for servers, warn for clients"),
    key("log_format", Some("text"), "text or json"),
    key("device", Some("cpu"), "cpu, cuda or cuda:N; the ranks of a trainer take the GPUs from N on, one each"),
    key("precision", Some("f32"), "f32, or bf16 on a GPU; what is learned and its losses are f32 always"),
    key("threads", Some("0"), "threads that compute; 0: all cores"),
    key(
        "exact",
        Some("false"),
        "true: convolutions as plain sums, slower; false: by Winograd's method, the same to five digits",
    ),
    key(
        "checkpointing",
        None,
        "true: training keeps less in memory and computes it again, and weights are pages of a file, in the state folder without a model cache; the result is the same; default: where it must",
    ),
    key(
        "memory_budget",
        None,
        "MiB that a process which trains may take; default: three quarters of what is free when it starts",
    ),
    key("listen", Some(DEFAULT_LISTEN), "address the server listens on; without TLS on this machine alone"),
    key(
        "health_listen",
        None,
        "address where everyone may ask whether this process lives and is ready, as gRPC health checks do; default: nowhere",
    ),
    key(
        "reflection",
        Some("false"),
        "true: a coordinator tells who has a credential what services and messages it knows",
    ),
    key(
        "page_listen",
        None,
        "address where a coordinator serves its status page; without TLS on this machine alone; default: nowhere, of `up` 127.0.0.1:7433",
    ),
    key(
        "store",
        None,
        "where the coordinator remembers, sqlite:FILE or postgres://USER@HOST/DATABASE; default: likeness.db in the state folder",
    ),
    key(
        "pepper_file",
        None,
        "file with the secret that API keys are hashed under; default: `pepper` in the state folder",
    ),
    key(
        "tls_cert",
        None,
        "certificates of the coordinator, PEM; with tls_key it speaks TLS and may listen off this machine",
    ),
    key("tls_key", None, "private key of the coordinator, PEM"),
    key("tls_ca", None, "certificates that client and workers trust besides the system's, PEM"),
    key(
        "tls_client_ca",
        None,
        "authorities that sign certificates of workers, PEM; with trust_domain a coordinator lets workers in that have one, and a group trainers",
    ),
    key(
        "tls_client_crl",
        None,
        "certificates of workers that were revoked: a list (CRL) of each of those authorities, PEM; default: none was",
    ),
    key(
        "trust_domain",
        None,
        "what certificates of workers are of: such a one names spiffe://TRUST_DOMAIN/likeness/worker/NAME, or trainer or sampler for worker",
    ),
    key("tls_client_cert", None, "a worker's own certificate, PEM; with tls_client_key it needs no token"),
    key("tls_client_key", None, "private key of that certificate, PEM"),
    key("oidc_issuer", None, "identity provider whose tokens a coordinator takes, as they name it, https://…"),
    key("oidc_audience", None, "what those tokens must be for (aud)"),
    key("oidc_jwks", None, "where the provider's keys are; default: where its .well-known/openid-configuration says"),
    key("oidc_tenant_claim", Some("likeness_tenant"), "the claim that names a person's tenant"),
    key(
        "oidc_role_claim",
        Some("likeness_role"),
        "the claim that names a person's role, viewer or member, or a list with it",
    ),
    key(
        "max_connections",
        Some("4096"),
        "connections that a coordinator keeps at a time, a quarter of them of one address",
    ),
    key(
        "bucket",
        None,
        "where objects lie, file:///FOLDER or s3://BUCKET/PREFIX; default: the folder `bucket` in the state folder",
    ),
    key("bucket_endpoint", None, "where the S3 bucket is served, as https://HOST; default: by AWS"),
    key("bucket_region", Some("us-east-1"), "region of the S3 bucket"),
    key("bucket_key_id", None, "id of the access key to the S3 bucket; default: as AWS's variables and services say"),
    key("bucket_secret", None, "secret of that access key"),
    key("retry_seconds", Some("30"), "how long the client goes on trying while the server does not answer"),
    key("drain_seconds", Some("20"), "how long workers get to hand back their tasks when the server stops"),
    key("lease_seconds", Some("15"), "how long a worker may be silent before its tasks are given to another"),
    key("attempts", Some("3"), "how often a task is tried before it has failed"),
    key(
        "trainer_slots",
        None,
        "subjects that a trainer trains at the same time; default: chosen by what steps were measured to take",
    ),
    key(
        "sampler_slots",
        Some("4"),
        "render tasks that a sampler holds at the same time; their avatars are drawn together as far as the memory goes",
    ),
    key(
        "metrics_listen",
        None,
        "where coordinator, trainer, sampler and up serve /metrics and /healthz, as 127.0.0.1:9464; default: nowhere",
    ),
    key(
        "metrics_otlp_endpoint",
        None,
        "collector that is told of metrics by OTLP, as http://127.0.0.1:4317; default: as OpenTelemetry's own variables say",
    ),
    key(
        "tracing_otlp_endpoint",
        None,
        "collector that is told of traces by OTLP, as http://127.0.0.1:4317; default: as OpenTelemetry's own variables say",
    ),
    key("otlp_protocol", Some("grpc"), "grpc, or http/protobuf: how collectors are told"),
    key("name", None, "the worker's name; default: its role"),
    key("ranks", Some("1"), "devices of a trainer that share its steps, a rank each; on the CPU they share the model"),
    key(
        "group_leader",
        None,
        "HOST:PORT where the leader of a group of trainers listens, port 7432 unless named; default: LWS_LEADER_ADDRESS",
    ),
    key("group_size", Some("1"), "trainers in the group; default: LWS_GROUP_SIZE where it is set"),
    key(
        "group_index",
        Some("0"),
        "which of them this is; 0 leads and has the tasks; default: LWS_WORKER_INDEX where it is set",
    ),
    key("group_deadline_seconds", Some("30"), "how long a rank may keep its group waiting before it is lost"),
    key(
        "group_plaintext",
        Some("false"),
        "true: the group may span machines though nothing is encrypted, not even where certificates are set; for networks that nobody else hears",
    ),
    key(
        "placement",
        Some("auto"),
        "split: a subject's samples over all ranks; spread: a subject to a rank; auto: what takes less time",
    ),
];

/// The known name that looks most like `name`, if one does.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// ", did you mean …?" or the whole list.
pub(crate) fn advice<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(name, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known are {}", known.into_iter().collect::<Vec<_>>().join(", ")),
    }
}
