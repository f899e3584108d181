use likeness_proto::v1::avatars_client::AvatarsClient;
use likeness_proto::v1::{GetLossesRequest, LossCurve};
use tonic::Request;

use crate::Sandbox;

/// The loss curve of a job's subject.
pub fn losses(sandbox: &Sandbox, job: &str, subject: &str) -> LossCurve {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut client = AvatarsClient::connect(sandbox.address()).await.expect("the server listens");
        let mut request = Request::new(GetLossesRequest { job_id: job.to_owned(), subject: subject.to_owned() });
        let token = format!("Bearer {}", sandbox.token()).parse().expect("ASCII");
        request.metadata_mut().insert("authorization", token);
        client.get_losses(request).await.expect("a loss curve").into_inner()
    })
}
