//! gRPC health checks (`grpc.health.v1`) on an address of their own, in the clear, for probes that know neither certificate nor token.
//! They are told of two services and of nothing else: [`LIVENESS`] and [`READINESS`].

use crate::exit::Failure;
use crate::roles;
use crate::settings::Settings;
use std::future::Future;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::ServingStatus::{self, NotServing, Serving};
use tracing::{error, info};

/// Served as long as the process answers at all.
pub const LIVENESS: &str = "liveness";
/// Served while the process can do its work: a coordinator whose store and bucket answer, a worker that its coordinator has taken in. Not
/// while it drains.
pub const READINESS: &str = "readiness";

/// Begins to answer on the address that is set, if one is; ready is whoever says so to the sender, until `shutdown`.
/// It answers as long as the runtime lives, so that a process that drains says that it does.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(settings: &Settings, shutdown: &CancellationToken) -> Result<watch::Sender<bool>, Failure> {
    let (ready, seen) = watch::channel(false);
    if let Some(address) = settings.health_listen {
        let listener = roles::bind(address).await?;
        let address = listener.local_addr().map_err(Failure::unexpected)?;
        info!(%address, "health is told");
        tokio::spawn(answer(listener, seen, shutdown.clone()));
    }
    Ok(ready)
}

/// Says to `ready` that it is so once `event` has come about.
pub(crate) fn ready_after(ready: watch::Sender<bool>, event: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        event.await;
        ready.send_replace(true);
    });
}

async fn answer(listener: TcpListener, mut ready: watch::Receiver<bool>, shutdown: CancellationToken) {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status(LIVENESS, Serving).await;
    reporter.set_service_status(READINESS, NotServing).await;
    let follow = async move {
        loop {
            let now = status(*ready.borrow_and_update());
            reporter.set_service_status(READINESS, now).await;
            match shutdown.run_until_cancelled(ready.changed()).await {
                Some(Ok(())) => {}
                // Nobody is left to say anything else: what was said last holds.
                Some(Err(_)) => break shutdown.cancelled().await,
                None => break,
            }
        }
        reporter.set_service_status(READINESS, NotServing).await;
    };
    let served = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
    let (served, ()) = tokio::join!(served, follow);
    if let Err(error) = served {
        error!(%error, "health is told no longer");
    }
}

fn status(ready: bool) -> ServingStatus {
    if ready { Serving } else { NotServing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::transport::Endpoint;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus as Wire;
    use tonic_health::pb::health_client::HealthClient;

    /// What is seen of a service as it changes.
    async fn watched(address: &str, service: &str) -> tonic::Streaming<tonic_health::pb::HealthCheckResponse> {
        let mut client = HealthClient::new(Endpoint::from_shared(address.to_owned()).unwrap().connect_lazy());
        client.watch(HealthCheckRequest { service: service.to_owned() }).await.unwrap().into_inner()
    }

    #[tokio::test]
    async fn a_process_lives_throughout_and_is_ready_between_its_start_and_its_drain() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let ((ready, seen), shutdown) = (watch::channel(false), CancellationToken::new());
        tokio::spawn(answer(listener, seen, shutdown.clone()));

        let mut states = watched(&address, READINESS).await;
        let mut next = async || states.message().await.unwrap().unwrap().status();
        assert_eq!(next().await, Wire::NotServing);
        ready_after(ready, std::future::ready(()));
        assert_eq!(next().await, Wire::Serving);
        shutdown.cancel();
        assert_eq!(next().await, Wire::NotServing);
        let mut life = watched(&address, LIVENESS).await;
        assert_eq!(life.message().await.unwrap().unwrap().status(), Wire::Serving);
    }
}
