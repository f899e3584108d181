//! Sending to a collector, by OTLP over gRPC or HTTP. A collector that does not answer costs what it was to be told, and no time
//! of anybody else: what waits for it is bounded, and so is how long it is waited for.

use crate::exit::{Exit, Failure};
use crate::settings::{OtlpProtocol, Settings};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig,
    WithTonicConfig,
};
use opentelemetry_sdk::metrics::PeriodicReader;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor};
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Handle;

/// A collector has so long to take something.
const LIMIT: Duration = Duration::from_secs(3);
/// How often it is told of numbers.
const PERIOD: Duration = Duration::from_secs(15);

/// Where a collector listens, and how to speak to it.
#[derive(Clone, Debug)]
pub(super) struct Collector {
    endpoint: String,
    protocol: OtlpProtocol,
    /// Whom to trust besides those that the system trusts.
    authority: Option<Vec<u8>>,
}

impl Collector {
    /// The collector of this endpoint, if one is set.
    ///
    /// # Errors
    /// [`Exit::Setting`] when `tls_ca` cannot be read.
    pub(super) fn of(endpoint: Option<&str>, settings: &Settings) -> Result<Option<Self>, Failure> {
        let Some(endpoint) = endpoint else { return Ok(None) };
        let authority = |path: &Path| crate::renewed::read("tls_ca", path);
        let authority = settings.tls_ca.as_deref().map(authority).transpose()?;
        Ok(Some(Self { endpoint: endpoint.to_owned(), protocol: settings.otlp_protocol, authority }))
    }

    fn is_tls(&self) -> bool {
        self.endpoint.starts_with("https://")
    }

    fn tls(&self) -> ClientTlsConfig {
        let authority = self.authority.iter().map(Certificate::from_pem);
        ClientTlsConfig::new().with_native_roots().ca_certificates(authority)
    }

    /// Where signals of a kind are posted.
    fn url(&self, signal: &str) -> String {
        let path = format!("/v1/{signal}");
        let base = self.endpoint.trim_end_matches('/');
        if base.ends_with(&path) { base.to_owned() } else { format!("{base}{path}") }
    }

    fn refuse(&self, error: &ExporterBuildError) -> Failure {
        Failure::new(Exit::Setting, format!("the collector {} cannot be called: {error}", self.endpoint))
    }
}

/// Tells the collector of numbers, now and then and once more at the end.
pub(super) fn metrics(collector: &Collector) -> Result<PeriodicReader<MetricExporter>, Failure> {
    let exporter = match collector.protocol {
        OtlpProtocol::Grpc => {
            let builder = MetricExporter::builder().with_tonic().with_endpoint(&collector.endpoint);
            let builder = builder.with_timeout(LIMIT).with_retry_policy(RetryPolicy::disabled());
            if collector.is_tls() { builder.with_tls_config(collector.tls()) } else { builder }.build()
        }
        OtlpProtocol::Http => {
            let builder = MetricExporter::builder().with_http().with_http_client(Client::new(collector)?);
            let builder = builder.with_protocol(Protocol::HttpBinary).with_endpoint(collector.url("metrics"));
            builder.with_timeout(LIMIT).with_retry_policy(RetryPolicy::disabled()).build()
        }
    };
    let exporter = exporter.map_err(|error| collector.refuse(&error))?;
    Ok(PeriodicReader::builder(exporter).with_interval(PERIOD).build())
}

/// Spans that wait to be told, at most; those above are lost.
const QUEUE: usize = 4096;
/// Spans of one message.
const BATCH: usize = 512;
/// How long a span waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// Tells the collector of spans.
pub(super) fn spans(collector: &Collector) -> Result<BatchSpanProcessor, Failure> {
    let exporter = match collector.protocol {
        OtlpProtocol::Grpc => {
            let builder = SpanExporter::builder().with_tonic().with_endpoint(&collector.endpoint);
            let builder = builder.with_timeout(LIMIT).with_retry_policy(RetryPolicy::disabled());
            if collector.is_tls() { builder.with_tls_config(collector.tls()) } else { builder }.build()
        }
        OtlpProtocol::Http => {
            let builder = SpanExporter::builder().with_http().with_http_client(Client::new(collector)?);
            let builder = builder.with_protocol(Protocol::HttpBinary).with_endpoint(collector.url("traces"));
            builder.with_timeout(LIMIT).with_retry_policy(RetryPolicy::disabled()).build()
        }
    };
    let exporter = exporter.map_err(|error| collector.refuse(&error))?;
    let config = BatchConfigBuilder::default().with_max_queue_size(QUEUE).with_max_export_batch_size(BATCH);
    Ok(BatchSpanProcessor::builder(exporter).with_batch_config(config.with_scheduled_delay(GATHER).build()).build())
}

/// Posts on this runtime what an exporter's own thread wants posted.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    runtime: Handle,
}

impl Client {
    fn new(collector: &Collector) -> Result<Self, Failure> {
        let mut builder = reqwest::Client::builder().timeout(LIMIT);
        if let Some(pem) = &collector.authority {
            let certificates = reqwest::Certificate::from_pem_bundle(pem);
            let certificates = certificates
                .map_err(|error| Failure::new(Exit::Setting, format!("tls_ca holds no certificates: {error}")))?;
            builder = certificates.into_iter().fold(builder, reqwest::ClientBuilder::add_root_certificate);
        }
        Ok(Self { http: builder.build().map_err(Failure::unexpected)?, runtime: Handle::current() })
    }
}

#[tonic::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (http, request) = (self.http.clone(), reqwest::Request::try_from(request)?);
        let posted = self.runtime.spawn(async move {
            let mut answer = http.execute(request).await?;
            let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
            Ok::<_, reqwest::Error>((status, headers, answer.bytes().await?))
        });
        let (status, headers, body) = posted.await??;
        let mut response = Response::new(body);
        (*response.status_mut(), *response.headers_mut()) = (status, headers);
        Ok(response)
    }
}
