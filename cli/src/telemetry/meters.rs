//! Where numbers go: to whoever asks for `/metrics`, and to a collector that is told of them now and then.

use super::otlp::{self, Collector};
use super::process;
use crate::exit::{Exit, Failure};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use opentelemetry::global;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

/// What Prometheus calls the format.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Makes this process's instruments count, for `registry` and for the collector, if there is one.
///
/// # Errors
/// [`Exit::Setting`] for a collector that cannot be called.
pub(super) fn install(
    role: &'static str,
    resource: Resource,
    registry: &Registry,
    collector: Option<&Collector>,
) -> Result<SdkMeterProvider, Failure> {
    let shown = opentelemetry_prometheus::exporter().with_registry(registry.clone()).scope_info_enabled(false);
    let mut builder = SdkMeterProvider::builder().with_resource(resource);
    builder = builder.with_reader(shown.build().map_err(Failure::unexpected)?);
    if let Some(collector) = collector {
        builder = builder.with_reader(otlp::metrics(collector)?);
    }
    let provider = builder.build();
    global::set_meter_provider(provider.clone());
    process::watch(role);
    Ok(provider)
}

/// Binds the address that `metrics_listen` says.
///
/// # Errors
/// [`Exit::PortInUse`] when it is taken, [`Exit::Setting`] when it cannot be had otherwise.
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Failure::new(
            Exit::PortInUse,
            format!("cannot serve metrics on {address}: the port is in use; stop what uses it, or set metrics_listen to another"),
        ),
        _ => Failure::new(Exit::Setting, format!("cannot serve metrics on {address}: {error}; set metrics_listen to another")),
    })
}

/// Answers on `/metrics` and `/healthz` until it is aborted. Nothing that is told names a tenant, a job or a person.
pub(super) async fn serve(listener: TcpListener, registry: Registry) {
    let router =
        Router::new().route("/metrics", get(show)).route("/healthz", get(async || "ok\n")).with_state(registry);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "metrics are no longer served");
    }
}

async fn show(State(registry): State<Registry>) -> Response {
    // Some are read from files and devices only now.
    let text = spawn_blocking(move || TextEncoder::new().encode_to_string(&registry.gather())).await;
    match text {
        Ok(Ok(text)) => ([(CONTENT_TYPE, FORMAT)], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
