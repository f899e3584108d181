//! The layers, each checked for keys that do not exist, then laid over each other.

use super::keys::advice;
use super::{KEYS, Row};
use crate::exit::{Exit, Failure};
use config::{Config, Environment, FileFormat, Map, Source, Value, ValueKind};
use likeness_coordinator::StoreAddress;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Name of the settings file in a state folder.
const STATE_FILE: &str = "likeness.toml";
const PREFIX: &str = "LIKENESS";
/// What Kubernetes' LeaderWorkerSet tells each node of a group, and the setting whose default it is.
const LEADER_WORKER_SET: [(&str, &str); 3] =
    [("LWS_LEADER_ADDRESS", "group_leader"), ("LWS_GROUP_SIZE", "group_size"), ("LWS_WORKER_INDEX", "group_index")];

/// What OpenTelemetry's own variables say, and the setting whose default it is. The first that is set counts.
const OPEN_TELEMETRY: [(&str, &str); 6] = [
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "tracing_otlp_endpoint"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "tracing_otlp_endpoint"),
    ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "metrics_otlp_endpoint"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "metrics_otlp_endpoint"),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "otlp_protocol"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "otlp_protocol"),
];

/// What the layers are made of.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// File named by `--config`; none: `likeness.toml` of the state folder, if it is there.
    pub file: Option<PathBuf>,
    /// The process environment.
    pub environment: Map<String, String>,
    /// Settings given as flags.
    pub flags: Vec<(&'static str, String)>,
}

impl Sources {
    /// With the environment of this process.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(&'static str, String)>) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { file, environment, flags }
    }
}

/// The layer that a value is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A settings file.
    File(PathBuf),
    /// This variable.
    Environment(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// One layer: its values by key.
type Layer = BTreeMap<&'static str, (Value, Origin)>;

/// All layers in one, and a row for every key.
pub(super) fn merge(sources: &Sources) -> Result<(Config, Vec<Row>), Failure> {
    let mut layers = vec![defaults(&sources.environment), environment(&sources.environment)?, flags(&sources.flags)?];
    let file = match &sources.file {
        Some(path) => read_file(path)?,
        None => state_file(&state_of(&layers))?,
    };
    layers.insert(1, file);
    let mut merged = Layer::new();
    for layer in layers {
        overlay(&mut merged, layer)?;
    }
    Ok((build(&merged)?, rows(&merged)))
}

fn overlay(below: &mut Layer, above: Layer) -> Result<(), Failure> {
    match (above.get("token"), above.get("token_file")) {
        (Some((_, origin)), Some(_)) => {
            return Err(setting(format!("both token and token_file are set ({origin}); set one of them")));
        }
        (Some(_), None) => drop(below.remove("token_file")),
        (None, Some(_)) => drop(below.remove("token")),
        (None, None) => {}
    }
    below.extend(above);
    Ok(())
}

fn defaults(environment: &Map<String, String>) -> Layer {
    let state = default_state(environment);
    let known = KEYS.iter().filter_map(|key| Some((key.name, key.default?.to_owned())));
    let told = LEADER_WORKER_SET.iter().chain(OPEN_TELEMETRY.iter().rev()).filter_map(|(variable, name)| {
        let text = environment.get(*variable).filter(|value| !value.is_empty())?;
        let value = Value::new(Some(&(*variable).to_owned()), ValueKind::String(text.clone()));
        Some((*name, (value, Origin::Environment((*variable).to_owned()))))
    });
    known
        .chain([("state", state)])
        .map(|(name, text)| (name, (Value::new(None, ValueKind::String(text)), Origin::Default)))
        .chain(told)
        .collect()
}

fn default_state(environment: &Map<String, String>) -> String {
    let set = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    match (set("XDG_DATA_HOME"), set("HOME")) {
        (Some(data), _) => format!("{data}/likeness"),
        (None, Some(home)) => format!("{home}/.local/share/likeness"),
        (None, None) => "likeness-state".to_owned(),
    }
}

fn state_of(layers: &[Layer]) -> PathBuf {
    let found = layers.iter().rev().find_map(|layer| layer.get("state"));
    PathBuf::from(found.map_or_else(String::new, |(value, _)| value.to_string()))
}

fn state_file(state: &Path) -> Result<Layer, Failure> {
    let path = state.join(STATE_FILE);
    if !path.is_file() {
        return Ok(Layer::new());
    }
    let layer = read_file(&path)?;
    if layer.contains_key("state") {
        return Err(setting(format!(
            "{} sets state, which is the folder it lies in; remove that line",
            path.display()
        )));
    }
    Ok(layer)
}

fn read_file(path: &Path) -> Result<Layer, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| setting(format!("cannot read the settings file {}: {error}", path.display())))?;
    let values = config::File::from_str(&text, FileFormat::Toml)
        .collect()
        .map_err(|error| setting(format!("the settings file {} is not valid TOML: {error}", path.display())))?;
    let origin = Origin::File(path.to_owned());
    let place = path.display().to_string();
    values
        .into_iter()
        .map(|(name, value)| Ok((known(&name, &place)?, (labelled(value, &place), origin.clone()))))
        .collect()
}

fn environment(variables: &Map<String, String>) -> Result<Layer, Failure> {
    let values = Environment::with_prefix(PREFIX)
        .prefix_separator("__")
        .separator("__")
        .source(Some(variables.clone()))
        .collect()
        .map_err(|error| setting(error.to_string()))?;
    values
        .into_iter()
        .map(|(name, value)| {
            let variable = format!("{PREFIX}__{}", name.to_uppercase().replace('.', "__"));
            Ok((known(&name, "the environment")?, (labelled(value, &variable), Origin::Environment(variable))))
        })
        .collect()
}

fn flags(given: &[(&'static str, String)]) -> Result<Layer, Failure> {
    given
        .iter()
        .map(|(name, text)| {
            let value = Value::new(Some(&"a flag".to_owned()), ValueKind::String(text.clone()));
            Ok((known(name, "the flags")?, (value, Origin::Flag)))
        })
        .collect()
}

/// `value` with its place, so that an error about its type can name it.
fn labelled(value: Value, place: &str) -> Value {
    Value::new(Some(&place.to_owned()), value.kind)
}

fn known(name: &str, place: &str) -> Result<&'static str, Failure> {
    let names = KEYS.iter().map(|key| key.name);
    names
        .clone()
        .find(|key| *key == name)
        .ok_or_else(|| setting(format!("unknown setting `{name}` in {place}; {}", advice(name, names))))
}

fn build(merged: &Layer) -> Result<Config, Failure> {
    let mut builder = Config::builder();
    for (name, (value, _)) in merged {
        builder = builder.set_override(*name, value.clone()).map_err(|error| setting(error.to_string()))?;
    }
    builder.build().map_err(|error| setting(error.to_string()))
}

fn rows(merged: &Layer) -> Vec<Row> {
    KEYS.iter()
        .map(|key| match merged.get(key.name) {
            Some((_, origin)) if ["token", "bucket_secret"].contains(&key.name) => {
                Row { key, value: Some("…".to_owned()), origin: origin.clone() }
            }
            Some((value, origin)) if key.name == "store" => {
                // Without the password, if it has one.
                let shown =
                    value.to_string().parse().map_or_else(|_| "…".to_owned(), |store: StoreAddress| store.to_string());
                Row { key, value: Some(shown), origin: origin.clone() }
            }
            Some((value, origin)) => Row { key, value: Some(value.to_string()), origin: origin.clone() },
            None => Row { key, value: None, origin: Origin::Default },
        })
        .collect()
}

fn setting(message: String) -> Failure {
    Failure::new(Exit::Setting, message)
}
