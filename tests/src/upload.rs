use std::thread::JoinHandle;

use likeness_proto::v1::avatars_client::AvatarsClient;
use likeness_proto::v1::put_subject_request::Part;
use likeness_proto::v1::{Capacity, Consent, PhotoHeader, PutSubjectRequest, SubjectHeader};
use tokio_stream::StreamExt;
use tonic::{Request, Status};

use crate::Sandbox;

/// Uploads a subject up to the middle of its first photo, and waits there for the server's answer. Returns when the
/// server has taken what was sent.
pub fn half_an_upload(sandbox: &Sandbox, subject: &str) -> JoinHandle<Result<(), Status>> {
    let (address, token) = (sandbox.address(), sandbox.token());
    let (sent, all_sent) = std::sync::mpsc::channel();
    let parts = half(subject);
    let upload = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let mut client = AvatarsClient::connect(address).await.expect("the server listens");
            let parts = tokio_stream::iter(parts).chain(silence(sent));
            let mut request = Request::new(parts);
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
            client.put_subject(request).await.map(drop)
        })
    });
    all_sent.recv().expect("the upload begins");
    upload
}

fn half(subject: &str) -> Vec<PutSubjectRequest> {
    let consent =
        Consent { attested_by: "test".into(), capacity: Capacity::Self_.into(), statement: "I am the drawing".into() };
    let header = SubjectHeader { subject: subject.into(), consent: Some(consent) };
    let photo = PhotoHeader { file_name: "01.png".into(), size: 4096, caption: String::new() };
    [Part::Header(header), Part::Photo(photo), Part::Chunk(vec![7; 2048])]
        .map(|part| PutSubjectRequest { part: Some(part) })
        .into()
}

/// A stream that says that it was asked for more, and then never ends.
fn silence(asked: std::sync::mpsc::Sender<()>) -> impl tokio_stream::Stream<Item = PutSubjectRequest> {
    tokio_stream::once(()).then(move |()| {
        let _ = asked.send(());
        std::future::pending()
    })
}
