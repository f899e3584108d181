//! Log lines and progress bars, on the same terminal without tearing each other; and what a process tells those who watch it.

mod meters;
mod otlp;
mod process;

pub(crate) use process::watch_gpu;

use crate::exit::{Exit, Failure};
use crate::settings::{LogFormat, Settings};
use indicatif::{MultiProgress, ProgressDrawTarget};
use likeness_telemetry::trace::TARGET;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use otlp::Collector;
use prometheus::Registry;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// Standard error: bars when it is a terminal, plain lines otherwise.
#[derive(Clone, Debug)]
pub struct Console {
    bars: MultiProgress,
    live: bool,
}

impl Console {
    /// The process's standard error.
    #[must_use]
    pub fn stderr() -> Self {
        let live = io::stderr().is_terminal();
        Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()), live }
    }

    /// One that shows no bars; for tests.
    #[must_use]
    pub fn plain() -> Self {
        Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()), live: false }
    }

    /// The bars, if they can be seen.
    #[must_use]
    pub fn bars(&self) -> Option<&MultiProgress> {
        self.live.then_some(&self.bars)
    }

    /// Writes a line for the user.
    pub fn say(&self, line: impl AsRef<str>) {
        self.bars.suspend(|| {
            // Nobody is left to be told that standard error is closed.
            let _ = writeln!(io::stderr().lock(), "{}", line.as_ref());
        });
    }
}

/// A log line's way to standard error: bars step aside for it.
#[derive(Clone)]
struct LogWriter(MultiProgress);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Installs the log of this process, and a way for its spans to a collector, if one is set. `serves`: the default filter says what
/// happens, else only warnings. To be called within a runtime.
///
/// # Errors
/// [`Exit::Setting`] when the filter cannot be read, or the collector cannot be called.
pub fn install(settings: &Settings, name: &'static str, serves: bool, console: &Console) -> Result<Traces, Failure> {
    let text = settings.log.as_deref().unwrap_or(if serves { "info,opentelemetry=warn" } else { "warn" });
    let filter = EnvFilter::try_new(text)
        .map_err(|error| Failure::new(Exit::Setting, format!("the log filter `{text}` is not accepted: {error}")))?;
    let filter = filter.and(filter_fn(|metadata| metadata.target() != TARGET));
    let lines = fmt::layer().with_writer(LogWriter(console.bars.clone()));
    let lines = match settings.log_format {
        LogFormat::Text => lines.with_ansi(console.live).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().with_filter(filter).boxed(),
    };
    let traces = Traces::of(settings, name)?;
    let spans = traces.0.as_ref().map(|provider| {
        let layer = OpenTelemetryLayer::new(provider.tracer("likeness"));
        let layer = layer.with_location(false).with_threads(false).with_target(false).with_level(false);
        layer
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(filter_fn(|metadata| metadata.target() == TARGET))
    });
    tracing_subscriber::registry().with(lines).with(spans).try_init().map_err(Failure::unexpected)?;
    Ok(traces)
}

/// The way of spans to a collector, if one is set.
#[derive(Debug)]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    fn of(settings: &Settings, name: &'static str) -> Result<Self, Failure> {
        let collector = Collector::of(settings.tracing_otlp_endpoint.as_deref(), settings)?;
        let Some(collector) = collector else { return Ok(Self(None)) };
        let builder = SdkTracerProvider::builder().with_resource(resource(name));
        Ok(Self(Some(builder.with_span_processor(otlp::spans(&collector)?).build())))
    }

    /// Sends what is left.
    pub async fn end(self) {
        if let Some(provider) = self.0 {
            farewell("traces", move || provider.shutdown_with_timeout(FAREWELL)).await;
        }
    }
}

/// What a process tells those who watch it, until it ends.
#[derive(Debug, Default)]
pub struct Telemetry {
    meters: Option<SdkMeterProvider>,
    served: Option<AbortOnDropHandle<()>>,
}

/// What is left to tell at the end is told within this time, or not at all.
const FAREWELL: Duration = Duration::from_secs(2);

impl Telemetry {
    /// Begins to tell what the settings say. `role`: what this process does, if it serves.
    ///
    /// # Errors
    /// [`Exit::PortInUse`] and [`Exit::Setting`] for addresses that cannot be had or called.
    pub async fn start(settings: &Settings, role: Option<&'static str>) -> Result<Self, Failure> {
        let Some(role) = role.filter(|_| settings.counts()) else { return Ok(Self::default()) };
        let (registry, resource) = (Registry::new(), resource(role));
        let collector = Collector::of(settings.metrics_otlp_endpoint.as_deref(), settings)?;
        let meters = meters::install(role, resource, &registry, collector.as_ref())?;
        let served = match settings.metrics_listen {
            None => None,
            Some(address) => {
                let listener = meters::bind(address).await?;
                let address = listener.local_addr().map_err(Failure::unexpected)?;
                info!(%address, "metrics are served");
                Some(AbortOnDropHandle::new(tokio::spawn(meters::serve(listener, registry))))
            }
        };
        Ok(Self { meters: Some(meters), served })
    }

    /// Tells what is left.
    pub async fn end(self) {
        drop(self.served);
        if let Some(meters) = self.meters {
            farewell("metrics", move || meters.shutdown()).await;
        }
    }
}

/// Tells a collector the last of something, as long as that does not take too long.
async fn farewell(what: &'static str, tell: impl FnOnce() -> OTelSdkResult + Send + 'static) {
    match timeout(FAREWELL, spawn_blocking(tell)).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => warn!(what, %error, "collector not told of the last"),
        Ok(Err(_)) | Err(_) => warn!(what, limit = ?FAREWELL, "collector not told of the last in time"),
    }
}

/// What this process is; OpenTelemetry's own variables may say otherwise.
fn resource(name: &'static str) -> Resource {
    let name = std::env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| format!("likeness-{name}"));
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    Resource::builder().with_service_name(name).with_attribute(version).build()
}
