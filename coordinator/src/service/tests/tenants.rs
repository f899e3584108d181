//! Tenants over the wire: each sees its own.

use likeness_proto::v1::admin_client::AdminClient;
use likeness_proto::{Bearer, Role};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::*;

impl Served {
    /// A client with a fresh key of a tenant, which is made.
    async fn people_of(&self, tenant: &str, role: Role) -> People {
        self.people_with(&self.key_of(tenant, role, 0).await.token)
    }

    /// A fresh key of a tenant, which is made.
    pub(super) async fn key_of(&self, tenant: &str, role: Role, seconds: u64) -> v1::CreatedKey {
        let mut admin = self.admin();
        admin.create_tenant(v1::CreateTenantRequest { id: tenant.into(), ..Default::default() }).await.unwrap();
        let ask = v1::CreateKeyRequest { tenant: tenant.into(), role: role.encode(), seconds };
        admin.create_key(ask).await.unwrap().into_inner()
    }

    pub(super) fn admin(&self) -> AdminClient<InterceptedService<Channel, Bearer>> {
        AdminClient::with_interceptor(self.channel.clone(), Bearer::new(&secret("right")))
    }
}

fn code<T>(answer: Result<Response<T>, Status>) -> Code {
    answer.map(drop).expect_err("it must be refused").code()
}

#[tokio::test]
async fn what_another_tenant_has_is_not_found() {
    let served = Served::new().await;
    let _worker = Worker::registered(&served).await;
    let job = served.submitted().await;
    let key = job.subjects[0].subject.clone();
    let photo = served.keys().await.pop().unwrap();
    let mut other = served.people_of("other", Role::Member).await;

    let job_id = || job.id.clone();
    assert_eq!(code(other.get_job(v1::GetJobRequest { job_id: job_id() }).await), Code::NotFound);
    assert_eq!(code(other.watch_job(v1::WatchJobRequest { job_id: job_id() }).await), Code::NotFound);
    assert_eq!(code(other.cancel_job(v1::CancelJobRequest { job_id: job_id() }).await), Code::NotFound);
    let losses = v1::GetLossesRequest { job_id: job_id(), subject: key.clone() };
    assert_eq!(code(other.get_losses(losses).await), Code::NotFound);
    assert_eq!(code(other.get_subject(v1::GetSubjectRequest { subject: key.clone() }).await), Code::NotFound);
    assert_eq!(code(other.forget_subject(v1::ForgetSubjectRequest { subject: key }).await), Code::NotFound);
    assert_eq!(code(other.download(v1::DownloadRequest { key: photo.clone() }).await), Code::NotFound);
    assert_eq!(code(other.get_download_link(v1::DownloadRequest { key: photo.clone() }).await), Code::NotFound);
    assert_eq!(code(other.submit_job(request()).await), Code::NotFound, "its subject is another's");
    assert!(other.list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner().jobs.is_empty());
    assert!(other.list_subjects(v1::ListSubjectsRequest {}).await.unwrap().into_inner().subjects.is_empty());

    assert!(served.people().get_job(v1::GetJobRequest { job_id: job_id() }).await.is_ok());
    let link = served.people().get_download_link(v1::DownloadRequest { key: photo }).await.unwrap().into_inner();
    assert_eq!(link.url, "", "a bucket in memory gives no links");
}

#[tokio::test]
async fn a_viewer_looks_and_changes_nothing() {
    let served = Served::new().await;
    let mut viewer = served.people_of("acme", Role::Viewer).await;
    assert!(viewer.list_jobs(v1::ListJobsRequest::default()).await.is_ok());
    assert_eq!(code(viewer.submit_job(request()).await), Code::PermissionDenied);
    let status = viewer.forget_subject(v1::ForgetSubjectRequest { subject: "ada".into() }).await.unwrap_err();
    assert_eq!(Refusal::read(&status).code, ErrorCode::Forbidden);
    assert!(status.message().contains("viewer") && status.message().contains("member"), "{}", status.message());
}

#[tokio::test]
async fn a_key_of_an_unknown_tenant_or_of_the_wrong_role_is_not_made() {
    let served = Served::new().await;
    let mut admin = served.admin();
    let ask =
        |tenant: &str, role: Role| v1::CreateKeyRequest { tenant: tenant.into(), role: role.encode(), seconds: 0 };
    assert_eq!(code(admin.create_key(ask("nobody", Role::Member)).await), Code::NotFound);
    assert_eq!(code(admin.create_key(ask("default", Role::Worker)).await), Code::InvalidArgument);
    assert_eq!(code(admin.create_key(ask("", Role::Viewer)).await), Code::InvalidArgument);
    assert_eq!(code(admin.revoke_key(v1::RevokeKeyRequest { prefix: "lk00".into() }).await), Code::NotFound);
    let rotate = v1::RotateKeyRequest { prefix: "lk00".into(), overlap_seconds: 1 };
    assert_eq!(code(admin.rotate_key(rotate).await), Code::NotFound);
    let made = admin.create_key(ask("default", Role::Viewer)).await.unwrap().into_inner();
    let listed = admin.list_keys(v1::ListKeysRequest::default()).await.unwrap().into_inner().keys;
    assert_eq!(listed, [made.key.unwrap()]);
}
