//! What probes are told of a coordinator and of a worker, from their start to their end.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::path::Path;

use likeness_tests::{Desk, Role};
use tonic::transport::Endpoint;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

const PROGRAM: &str = env!("CARGO_BIN_EXE_likeness-under-test");
const ANYWHERE: (&str, &str) = ("LIKENESS__HEALTH_LISTEN", "127.0.0.1:0");

/// The states of one service of a process as they change.
struct Watched(tonic::Streaming<HealthCheckResponse>);

impl Watched {
    async fn of(role: &Role, service: &str) -> Self {
        let line = role.says("health is told");
        let address = line.rsplit_once("address=").unwrap().1.trim();
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let request = HealthCheckRequest { service: service.to_owned() };
        Self(HealthClient::new(channel).watch(request).await.unwrap().into_inner())
    }

    async fn until_ready(&mut self) {
        while self.0.message().await.unwrap().expect("the process lives").status() != ServingStatus::Serving {}
    }

    /// It says so, or has nothing to drain and is gone already.
    async fn until_not_ready(&mut self) {
        while matches!(self.0.message().await, Ok(Some(told)) if told.status() == ServingStatus::Serving) {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_and_its_worker_are_ready_from_start_to_drain() {
    let desk = Desk::start(PROGRAM, &[(ANYWHERE.0, Path::new(ANYWHERE.1))]);
    let mut of_desk = Watched::of(&desk.coordinator, "readiness").await;
    of_desk.until_ready().await;

    let token = desk.path("state/token");
    let settings = [(ANYWHERE.0, Path::new(ANYWHERE.1)), ("LIKENESS__TOKEN_FILE", token.as_path())];
    let mut sampler = desk.worker(&["sampler"], &settings);
    let mut of_sampler = Watched::of(&sampler, "readiness").await;
    of_sampler.until_ready().await;

    sampler.signal("TERM");
    of_sampler.until_not_ready().await;
    assert_eq!(sampler.ended().0, Some(0));
    desk.coordinator.signal("TERM");
    of_desk.until_not_ready().await;
}
