use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use opentelemetry::global;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::{Code, Status};

use super::*;

/// Refuses everybody.
#[derive(Clone)]
struct Refusing;

impl Service<Request<Body>> for Refusing {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        Box::pin(async { Ok(Status::new(Code::NotFound, "there is none").into_http()) })
    }
}

static REFUSED: AtomicUsize = AtomicUsize::new(0);

fn ears() -> Ears {
    let refused = |status: &Status| {
        assert_eq!(status.message(), "there is none");
        REFUSED.fetch_add(1, Ordering::Relaxed);
    };
    Ears { known: |path| path == "/likeness.v1.Avatars/GetJob", begins: |_| true, refused }
}

fn request(path: &str) -> Request<Body> {
    Request::builder().uri(format!("http://here{path}")).body(Body::empty()).unwrap()
}

/// Method, status and count of every series of a histogram.
fn series(exporter: &InMemoryMetricExporter, name: &str) -> Vec<(String, String, u64)> {
    let told = exporter.get_finished_metrics().unwrap();
    let metrics = told.last().unwrap().scope_metrics().flat_map(|scope| scope.metrics());
    let AggregatedMetrics::F64(MetricData::Histogram(histogram)) =
        metrics.filter(|metric| metric.name() == name).last().unwrap().data()
    else {
        panic!("{name} is no histogram")
    };
    let label = |point: &opentelemetry_sdk::metrics::data::HistogramDataPoint<f64>, key: &str| {
        point.attributes().find(|label| label.key.as_str() == key).unwrap().value.to_string()
    };
    let series = |point| (label(point, "rpc.method"), label(point, "rpc.response.status_code"), point.count());
    let mut series: Vec<_> = histogram.data_points().map(series).collect();
    series.sort();
    series
}

#[tokio::test]
async fn calls_are_counted_by_method_and_status_and_what_strangers_make_up_under_one_name() {
    let exporter = InMemoryMetricExporter::default();
    let provider = SdkMeterProvider::builder().with_reader(PeriodicReader::builder(exporter.clone()).build()).build();
    global::set_meter_provider(provider.clone());
    let mut service = Asked::by(Served::by(Refusing, ears()));
    for path in ["/likeness.v1.Avatars/GetJob", "/likeness.v1.Avatars/x1", "/likeness.v1.Avatars/x2"] {
        service.call(request(path)).await.unwrap();
    }
    drop(service.call(request("/likeness.v1.Avatars/GetJob")));
    provider.force_flush().unwrap();

    let named = |name: &str, status: &str, count| (name.to_owned(), status.to_owned(), count);
    let (job, other) = ("likeness.v1.Avatars/GetJob", "_OTHER");
    let served = series(&exporter, "rpc.server.call.duration");
    assert_eq!(served, [named(other, "NOT_FOUND", 2), named(job, "CANCELLED", 1), named(job, "NOT_FOUND", 1)]);
    let asked = series(&exporter, "rpc.client.call.duration");
    assert_eq!(asked[0], named(job, "CANCELLED", 1));
    assert_eq!(asked[1], named(job, "NOT_FOUND", 1));
    assert_eq!(REFUSED.load(Ordering::Relaxed), 3);
}
