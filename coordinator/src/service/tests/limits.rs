//! Calls that take too long, and more of them than there is room for.

use prost::Message;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::codegen::Bytes;
use tonic::codegen::http::Request;

use super::*;
use crate::Limits;

/// A lease that waits for a task that never comes, by a raw client, with `timeout` as its `grpc-timeout`; the status that it ends with.
async fn lease(served: &Served, incarnation: &str, timeout: Option<&str>) -> Code {
    let (client, connection) = h2::client::handshake(TcpStream::connect(served.address).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("http://{}/likeness.v1.Workers/Lease", served.address));
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let request = request.header("authorization", "Bearer right");
    let request = timeout.into_iter().fold(request, |request, timeout| request.header("grpc-timeout", timeout));
    let (answer, mut body) = client.ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap();
    let ask = v1::LeaseRequest {
        incarnation: incarnation.into(),
        kinds: vec![likeness_proto::TaskKind::Train.encode()],
        capacity: 1,
        wait_ms: 30_000,
        previews: false,
    };
    let ask = ask.encode_to_vec();
    let mut message = vec![0];
    message.extend((ask.len() as u32).to_be_bytes());
    message.extend(ask);
    body.send_data(Bytes::from(message), true).unwrap();
    let status = answer.await.unwrap().headers()["grpc-status"].to_str().unwrap().parse::<i32>().unwrap();
    Code::from_i32(status)
}

#[tokio::test]
async fn a_call_ends_at_the_servers_deadline() {
    let limits = Limits { call: Duration::from_millis(50), ..Limits::default() };
    let served = Served::with_limits(limits).await;
    let worker = Worker::registered(&served).await;
    for timeout in [None, Some("20S"), Some("nonsense")] {
        assert_eq!(lease(&served, &worker.incarnation, timeout).await, Code::DeadlineExceeded, "{timeout:?}");
    }
}

#[tokio::test]
async fn a_call_ends_at_its_callers_deadline_where_that_is_earlier() {
    let served = Served::new().await;
    let worker = Worker::registered(&served).await;
    assert_eq!(lease(&served, &worker.incarnation, Some("50m")).await, Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_stream_ends_at_its_callers_deadline() {
    let served = Served::new().await;
    let _worker = Worker::registered(&served).await;
    let job = served.submitted().await;
    let mut request = tonic::Request::new(v1::WatchJobRequest { job_id: job.id });
    request.set_timeout(Duration::from_secs(1));
    let mut watch = served.people().watch_job(request).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    assert_eq!(watch.message().await.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_until_one_ends() {
    let served = Served::with_limits(Limits { streams: 1, ..Limits::default() }).await;
    let _worker = Worker::registered(&served).await;
    let job = served.submitted().await;
    let request = || v1::WatchJobRequest { job_id: job.id.clone() };
    let mut first = served.people().watch_job(request()).await.unwrap().into_inner();
    first.message().await.unwrap().unwrap();
    let status = served.people().watch_job(request()).await.unwrap_err();
    let refusal = Refusal::read(&status);
    assert_eq!((status.code(), refusal.code), (Code::ResourceExhausted, ErrorCode::Overloaded));
    assert!(refusal.message.contains("1 streams") && refusal.retry_after.is_some(), "{refusal:?}");
    served.people().list_jobs(v1::ListJobsRequest::default()).await.expect("calls have room of their own");
    drop(first);
    while served.people().watch_job(request()).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn calls_beyond_the_limit_are_refused() {
    let served = Served::with_limits(Limits { calls: 0, ..Limits::default() }).await;
    let status = served.people().list_jobs(v1::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), Refusal::read(&status).code), (Code::ResourceExhausted, ErrorCode::Overloaded));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let served = Served::with_limits(Limits { connections_per_address: 2, ..Limits::default() }).await;
    let connect = || TcpStream::connect(served.address);
    let (first, _second) = (connect().await.unwrap(), connect().await.unwrap());
    let mut third = connect().await.unwrap();
    assert_eq!(third.read(&mut [0; 9]).await.unwrap_or(0), 0, "it is closed without a word");
    drop(first);
    while served.people().list_jobs(v1::ListJobsRequest::default()).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_connection_that_is_idle_for_long_is_closed() {
    let served = Served::with_limits(Limits { idle: Duration::from_millis(20), ..Limits::default() }).await;
    let (client, connection) = h2::client::handshake(TcpStream::connect(served.address).await.unwrap()).await.unwrap();
    let closed = tokio::spawn(connection);
    let request = Request::post(format!("http://{}/", served.address)).body(()).unwrap();
    let (answer, _) = client.ready().await.unwrap().send_request(request, true).unwrap();
    answer.await.unwrap();
    let _either = closed.await.unwrap();
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused() {
    let served = Served::new().await;
    let status = served.people_with(&"a".repeat(7000)).list_jobs(v1::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "a long token is read");
    let mut request = tonic::Request::new(v1::ListJobsRequest::default());
    for number in 0..4 {
        request.metadata_mut().insert(["a", "b", "c", "d"][number], "x".repeat(7000).parse().unwrap());
    }
    served.people().list_jobs(request).await.unwrap_err();
    served.people().list_jobs(v1::ListJobsRequest::default()).await.unwrap();
}

#[tokio::test]
async fn an_upload_that_stalls_or_trickles_is_ended() {
    let limits = Limits { upload_wait: Duration::from_millis(100), upload_rate: 1 << 40, ..Limits::default() };
    let served = Served::with_limits(limits).await;
    for trickles in [false, true] {
        let (sender, receiver) = mpsc::channel(1);
        let mut people = served.people();
        let upload = tokio::spawn(async move { people.put_subject(ReceiverStream::new(receiver)).await });
        let mut messages = parts("ada", &[("a.png", vec![0; 1 << 20])]).into_iter();
        for message in messages.by_ref().take(2) {
            sender.send(message).await.unwrap();
        }
        // One byte at a time earns next to nothing, however many there are.
        let byte = || PutSubjectRequest { part: Some(Part::Chunk(vec![0])) };
        while trickles && sender.send(byte()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let refusal = Refusal::read(&upload.await.unwrap().unwrap_err());
        assert!(refusal.message.contains("kept the coordinator waiting"), "{refusal}");
    }
    served.put("ada", &[("a.png", png(64, 48))]).await.unwrap();
}
