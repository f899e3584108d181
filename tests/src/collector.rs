use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span as Wire;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A collector of OTLP over gRPC that keeps the spans it hears of.
pub struct Collector {
    address: SocketAddr,
    heard: Heard,
}

type Heard = Arc<Mutex<Vec<Span>>>;

/// A span, as a test looks at it.
#[derive(Clone, Debug)]
pub struct Span {
    /// The `service.name` of who told it.
    pub service: String,
    /// What it is called.
    pub name: String,
    /// Its kind, as `server` or `internal`.
    pub kind: &'static str,
    /// Its trace, in hexadecimal.
    pub trace: String,
    /// Itself, in hexadecimal.
    pub id: String,
    /// Whose child it is, in hexadecimal; empty: nobody's.
    pub parent: String,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// The trace and id of every span that it is linked to.
    pub links: Vec<(String, String)>,
    /// Whether it is told to have failed.
    pub failed: bool,
    /// All that came with it, as text: whose it is, its scope, events, links and whatever else there is.
    pub whole: String,
}

impl Collector {
    /// Listens on this machine until the process ends.
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let heard = Heard::default();
        let incoming = {
            let _entered = runtime.enter();
            TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port")
        };
        let address = incoming.local_addr().expect("an address");
        let service = TraceServiceServer::new(Service(Arc::clone(&heard)));
        thread::spawn(move || {
            runtime.block_on(Server::builder().add_service(service).serve_with_incoming(incoming)).expect("it serves");
        });
        Self { address, heard }
    }

    /// Where it listens, as settings name it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it has heard so far.
    pub fn spans(&self) -> Vec<Span> {
        self.heard.lock().expect("no panic").clone()
    }
}

struct Service(Heard);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut heard = self.0.lock().expect("no panic");
        for resource in request.into_inner().resource_spans {
            let of = resource.resource.unwrap_or_default();
            for scope in resource.scope_spans {
                let from = format!("{of:?} {:?}", scope.scope);
                let service = attributes(&of.attributes).remove("service.name").unwrap_or_default();
                heard.extend(scope.spans.into_iter().map(|span| Span::of(&service, &from, span)));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Span {
    fn of(service: &str, from: &str, wire: Wire) -> Self {
        let kind = match wire.kind() {
            SpanKind::Client => "client",
            SpanKind::Server => "server",
            SpanKind::Consumer => "consumer",
            SpanKind::Producer => "producer",
            SpanKind::Internal | SpanKind::Unspecified => "internal",
        };
        let failed = wire.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
        Self {
            service: service.to_owned(),
            kind,
            trace: hex(&wire.trace_id),
            id: hex(&wire.span_id),
            parent: hex(&wire.parent_span_id),
            attributes: attributes(&wire.attributes),
            links: wire.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
            failed,
            whole: format!("{from} {wire:?}"),
            name: wire.name,
        }
    }
}

fn attributes(wire: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &KeyValue| match value.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        other => format!("{other:?}"),
    };
    wire.iter().map(|value| (value.key.clone(), text(value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
