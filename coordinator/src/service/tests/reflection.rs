//! What a coordinator says of its services.

use likeness_proto::Bearer;
use tonic::Code;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use super::served::{Served, secret};
use crate::Options;

async fn services(served: &Served, token: &str) -> Result<Vec<String>, Code> {
    let mut client = ServerReflectionClient::with_interceptor(served.channel.clone(), Bearer::new(&secret(token)));
    let ask = MessageRequest::ListServices(String::new());
    let ask = ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let answers = client.server_reflection_info(tokio_stream::iter([ask])).await.map_err(|status| status.code())?;
    let answer = answers.into_inner().message().await.map_err(|status| status.code())?;
    let Some(ServerReflectionResponse { message_response: Some(MessageResponse::ListServicesResponse(list)), .. }) =
        answer
    else {
        panic!("{answer:?}")
    };
    Ok(list.service.into_iter().map(|service| service.name).collect())
}

#[tokio::test]
async fn services_are_told_where_that_is_set_and_to_who_has_a_credential() {
    let served = Served::with(|options| Options { reflection: true, ..options }).await;
    let told = services(&served, "right").await.unwrap();
    for name in ["likeness.v1.Avatars", "likeness.v1.Workers", "likeness.v1.Admin"] {
        assert!(told.iter().any(|told| told == name), "{told:?}");
    }
    assert_eq!(services(&served, "wrong").await, Err(Code::Unauthenticated));
    assert_eq!(services(&Served::new().await, "right").await, Err(Code::Unimplemented));
}
