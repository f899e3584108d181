use super::*;
use std::fs;

struct Case {
    home: tempfile::TempDir,
    sources: Sources,
}

impl Case {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let environment = [("HOME".to_owned(), home.path().display().to_string())].into();
        Self { home, sources: Sources { environment, ..Sources::default() } }
    }

    fn file(mut self, text: &str) -> Self {
        let path = self.home.path().join("my.toml");
        fs::write(&path, text).unwrap();
        self.sources.file = Some(path);
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.sources.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn flag(mut self, name: &'static str, value: &str) -> Self {
        self.sources.flags.push((name, value.to_owned()));
        self
    }

    fn resolve(&self) -> Resolved {
        Settings::resolve(&self.sources).unwrap()
    }

    fn refusal(&self) -> Failure {
        Settings::resolve(&self.sources).unwrap_err()
    }
}

fn origin_of<'a>(resolved: &'a Resolved, name: &str) -> &'a Origin {
    &resolved.rows.iter().find(|row| row.key.name == name).unwrap().origin
}

#[test]
fn without_any_layer_the_defaults_hold() {
    let case = Case::new();
    let settings = case.resolve().settings;
    assert_eq!(settings.listen.to_string(), DEFAULT_LISTEN);
    assert_eq!(settings.state, case.home.path().join(".local/share/likeness"));
    assert_eq!(settings.retry(), Duration::from_secs(30));
    assert_eq!(settings.log_format, LogFormat::Text);
}

#[test]
fn each_layer_wins_over_the_ones_below() {
    let case = Case::new().file("attempts = 3\nthreads = 3\nlease_seconds = 3");
    let case = case.variable("LIKENESS__THREADS", "4").variable("LIKENESS__LEASE_SECONDS", "4");
    let resolved = case.flag("lease_seconds", "5").resolve();
    assert_eq!(resolved.settings.attempts, 3);
    assert_eq!(resolved.settings.threads, 4);
    assert_eq!(resolved.settings.lease(), Duration::from_secs(5));
    assert!(matches!(origin_of(&resolved, "attempts"), Origin::File(path) if path.ends_with("my.toml")));
    assert_eq!(*origin_of(&resolved, "threads"), Origin::Environment("LIKENESS__THREADS".to_owned()));
    assert_eq!(*origin_of(&resolved, "lease_seconds"), Origin::Flag);
    assert_eq!(*origin_of(&resolved, "log_format"), Origin::Default);
}

#[test]
fn variables_of_open_telemetry_say_where_a_collector_is_unless_something_else_does() {
    let case = Case::new().variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
    let case = case.variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://tempo:4318");
    let case = case.variable("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let settings = case.resolve().settings;
    assert_eq!(settings.tracing_otlp_endpoint.as_deref(), Some("http://tempo:4318"));
    assert_eq!(settings.metrics_otlp_endpoint.as_deref(), Some("http://collector:4318"));
    assert_eq!(settings.otlp_protocol, OtlpProtocol::Http);
    let own = case.variable("LIKENESS__TRACING_OTLP_ENDPOINT", "http://own:4317").flag("otlp_protocol", "grpc");
    let settings = own.resolve().settings;
    assert_eq!(settings.tracing_otlp_endpoint.as_deref(), Some("http://own:4317"));
    assert_eq!(settings.otlp_protocol, OtlpProtocol::Grpc);
}

#[test]
fn a_collector_is_an_url() {
    for endpoint in ["collector:4317", "http://", "grpc://collector:4317"] {
        let failure = Case::new().flag("tracing_otlp_endpoint", endpoint).refusal();
        assert!(failure.exit == Exit::Setting && failure.message.contains(endpoint), "{failure}");
    }
}

#[test]
fn a_leader_worker_set_says_what_a_node_is_unless_something_else_does() {
    let case = Case::new().variable("LWS_LEADER_ADDRESS", "trainer-0.group").variable("LWS_GROUP_SIZE", "4");
    let case = case.variable("LWS_WORKER_INDEX", "3");
    let resolved = case.resolve();
    let Settings { group_leader, group_size, group_index, .. } = &resolved.settings;
    assert_eq!((group_leader.as_deref(), *group_size, *group_index), (Some("trainer-0.group"), 4, 3));
    assert_eq!(*origin_of(&resolved, "group_size"), Origin::Environment("LWS_GROUP_SIZE".to_owned()));
    assert_eq!(case.variable("LIKENESS__GROUP_SIZE", "5").flag("group_index", "1").resolve().settings.group_size, 5);
}

#[test]
fn the_state_folders_own_file_is_read_unless_another_is_named() {
    let case = Case::new();
    let state = case.home.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("likeness.toml"), "threads = 7").unwrap();
    let case = case.flag("state", state.to_str().unwrap());
    assert_eq!(case.resolve().settings.threads, 7);
    assert_eq!(case.file("attempts = 2").resolve().settings.threads, 0);
}

#[test]
fn the_state_folders_own_file_cannot_move_the_state() {
    let case = Case::new();
    fs::write(case.home.path().join("likeness.toml"), "state = \"/elsewhere\"").unwrap();
    let state = case.home.path().display().to_string();
    assert_eq!(case.flag("state", &state).refusal().exit, Exit::Setting);
}

#[test]
fn an_unknown_key_in_a_file_is_refused_with_the_nearest() {
    let failure = Case::new().file("lease_secs = 3").refusal();
    assert_eq!(failure.exit, Exit::Setting);
    assert!(failure.message.contains("`lease_secs`") && failure.message.contains("my.toml"), "{failure}");
    assert!(failure.message.contains("did you mean `lease_seconds`?"), "{failure}");
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest() {
    let failure = Case::new().variable("LIKENESS__TREADS", "3").refusal();
    assert!(failure.message.contains("did you mean `threads`?"), "{failure}");
    assert_eq!(Case::new().variable("LIKENESS__LISTEN__PORT", "3").refusal().exit, Exit::Setting);
}

#[test]
fn other_programs_variables_are_left_alone() {
    Case::new().variable("LIKENESSES", "3").variable("PATH", "/bin").resolve();
}

#[test]
fn values_of_the_wrong_kind_or_range_are_refused_by_name() {
    let failure = Case::new().file("threads = \"many\"").refusal();
    assert!(failure.exit == Exit::Setting && failure.message.contains("threads"), "{failure}");
    let failure = Case::new().flag("lease_seconds", "0.1").refusal();
    assert!(failure.message.contains("lease_seconds is 0.1; 1 to 3600"), "{failure}");
    assert_eq!(Case::new().flag("listen", "nowhere").refusal().exit, Exit::Setting);
    assert_eq!(Case::new().file("log_format = \"xml\"").refusal().exit, Exit::Setting);
    assert_eq!(Case::new().file("threads = ").refusal().exit, Exit::Setting);
}

#[test]
fn a_secret_may_come_from_a_file_and_never_shows() {
    let case = Case::new();
    let path = case.home.path().join("secret");
    fs::write(&path, "abc123\n").unwrap();
    let case = case.file("token = \"from-the-file\"").variable("LIKENESS__TOKEN_FILE", path.to_str().unwrap());
    let resolved = case.resolve();
    assert_eq!(resolved.settings.token, Some(token("abc123").unwrap()));
    assert!(!format!("{resolved:?}").contains("abc123"));
}

#[test]
fn a_token_of_digits_is_taken_as_it_is() {
    let settings = Case::new().variable("LIKENESS__TOKEN", "001e5").resolve().settings;
    assert_eq!(settings.token, Some(token("001e5").unwrap()));
}

#[test]
fn a_missing_or_empty_token_file_is_a_failure_of_its_own() {
    let case = Case::new();
    let missing = case.home.path().join("missing").display().to_string();
    let failure = case.flag("token_file", &missing).refusal();
    assert!(failure.exit == Exit::Token && failure.message.contains(&missing), "{failure}");
}

#[test]
fn token_and_token_file_in_one_layer_are_refused() {
    let failure = Case::new().file("token = \"a\"\ntoken_file = \"b\"").refusal();
    assert!(failure.message.contains("both token and token_file"), "{failure}");
}

#[test]
fn the_password_of_a_store_never_shows() {
    let case = Case::new().file("store = \"postgres://ada:hunter2@db/likeness\"");
    let resolved = case.resolve();
    let row = resolved.rows.iter().find(|row| row.key.name == "store").unwrap();
    assert_eq!(row.value.as_deref(), Some("postgres://ada@db:5432/likeness"));
    assert!(!format!("{:?}", resolved.settings).contains("hunter2"));
    let failure = Case::new().file("store = \"mysql://ada:hunter2@db/likeness\"").refusal();
    assert!(failure.exit == Exit::Setting && !failure.message.contains("hunter2"), "{failure}");
}

#[test]
fn an_identity_provider_is_set_with_its_audience_or_not_at_all() {
    let issuer = || Case::new().variable("LIKENESS__OIDC_ISSUER", "https://id.example.org");
    assert!(Case::new().resolve().settings.oidc().unwrap().is_none());
    assert_eq!(issuer().resolve().settings.oidc().unwrap_err().exit, Exit::Setting);
    let jwks = Case::new().variable("LIKENESS__OIDC_JWKS", "https://id.example.org/keys");
    assert_eq!(jwks.resolve().settings.oidc().unwrap_err().exit, Exit::Setting);
    let oidc = issuer().variable("LIKENESS__OIDC_AUDIENCE", "likeness").resolve().settings.oidc().unwrap().unwrap();
    assert_eq!((oidc.tenant_claim.as_str(), oidc.role_claim.as_str()), ("likeness_tenant", "likeness_role"));
}

#[test]
fn half_of_what_workers_certificates_need_is_refused() {
    use crate::tls::{ServerTls, of_worker};
    let set = |name: &'static str, value: &str| Case::new().flag(name, value).resolve().settings;
    let refused = |settings: &Settings| ServerTls::of(settings).err().unwrap().message;
    for settings in [set("tls_client_ca", "ca.pem"), set("trust_domain", "fleet.example")] {
        assert!(refused(&settings).contains("together"));
    }
    assert!(refused(&set("tls_client_crl", "revoked.pem")).contains("tls_client_ca"));
    let case = Case::new().flag("tls_client_ca", "ca.pem").flag("trust_domain", "fleet.example");
    assert!(refused(&case.resolve().settings).contains("tls_cert"));
    for settings in [set("tls_client_cert", "cert.pem"), set("tls_client_key", "key.pem")] {
        assert!(of_worker(&settings).unwrap_err().message.contains("together"));
    }
}
