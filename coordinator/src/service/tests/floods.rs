//! Clients that open and reset streams as fast as they can, and clients that open connections and say nothing: others are served as ever.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::*;
use crate::Limits;

const RESETS: usize = 5000;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_HEADERS: u8 = 4;
const ACKNOWLEDGED: u8 = 1;

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Headers of a call of a worker, each a literal that is remembered nowhere (RFC 7541, section 6.2.2).
fn call() -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/likeness.v1.Workers/Lease"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("authorization", "Bearer right"),
    ];
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    headers.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// A client that writes frames as it likes.
struct Raw(TcpStream);

impl Raw {
    async fn connect(address: SocketAddr) -> Self {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        Self(tcp)
    }

    /// Writes, and waits until the server has read it all; `false`: it has hung up.
    async fn write(&mut self, bytes: &[u8]) -> bool {
        let ping = frame(PING, 0, 0, &[7; 8]);
        if self.0.write_all(&[bytes, &ping].concat()).await.is_err() {
            return false;
        }
        let mut header = [0; 9];
        while self.0.read_exact(&mut header).await.is_ok() {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let mut payload = vec![0; length];
            if self.0.read_exact(&mut payload).await.is_err() {
                return false;
            }
            if header[3] == PING && header[4] == ACKNOWLEDGED {
                return true;
            }
        }
        false
    }
}

/// Resets so many streams that it opened, over as many connections as it takes, and answers how many connections those were. With
/// `patience` it lets the server begin with each call before it resets that.
async fn reset_streams(address: SocketAddr, count: usize, patience: bool) -> usize {
    const AT_ONCE: u32 = 50;
    let (mut sent, mut connections) = (0, 0);
    while sent < count {
        let mut raw = Raw::connect(address).await;
        connections += 1;
        for round in 0.. {
            let streams = (0..AT_ONCE).map(|number| 2 * (AT_ONCE * round + number) + 1);
            let opened: Vec<u8> = streams.clone().flat_map(|id| frame(HEADERS, END_HEADERS, id, &call())).collect();
            let reset: Vec<u8> = streams.flat_map(|id| frame(RESET, 0, id, &8_u32.to_be_bytes())).collect();
            let goes_on = match patience {
                true => raw.write(&opened).await && raw.write(&reset).await,
                false => raw.write(&[opened, reset].concat()).await,
            };
            sent += AT_ONCE as usize;
            if !goes_on || sent >= count {
                break;
            }
        }
    }
    connections
}

/// Makes calls until `done`, each of which must be answered within two seconds; how many they were.
async fn calls_go_well(served: &Served, done: CancellationToken) -> usize {
    let (mut people, mut count) = (served.people(), 0);
    while !done.is_cancelled() || count == 0 {
        let call = people.list_jobs(v1::ListJobsRequest::default());
        tokio::time::timeout(Duration::from_secs(2), call).await.expect("in time").expect("answered well");
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_resets_streams_is_cut_off_and_others_are_served() {
    let served = Served::new().await;
    let limits = Limits::default();
    for patience in [false, true] {
        let done = CancellationToken::new();
        let flood = async {
            let connections = reset_streams(served.address, RESETS, patience).await;
            done.cancel();
            connections
        };
        let (connections, calls) = tokio::join!(flood, calls_go_well(&served, done.clone()));
        // The server sees that calls are given up a little after they were.
        let least = RESETS / (5 * limits.abandoned as usize);
        assert!(connections >= least, "{connections} connections were enough, {least} were due; patience: {patience}");
        assert!(calls > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_and_says_nothing_is_cut_off_and_others_are_served() {
    let limits = Limits { first_call: Duration::from_secs(1), ..Limits::default() };
    let served = Served::with_limits(limits).await;
    let settings = frame(SETTINGS, 0, 0, &[]);
    let begun = [PREFACE, &settings, &frame(HEADERS, 0, 1, &call()[..20])].concat();
    let words: [&[u8]; 4] = [&[], &PREFACE[..10], &[PREFACE, &settings].concat(), &begun];
    let mut silent = JoinSet::new();
    for number in 0..200 {
        let mut tcp = TcpStream::connect(served.address).await.unwrap();
        tcp.write_all(words[number % words.len()]).await.unwrap();
        silent.spawn(async move {
            let mut heard = [0; 1024];
            while tcp.read(&mut heard).await.is_ok_and(|length| length > 0) {}
        });
    }
    let done = CancellationToken::new();
    let ended = async {
        let mut ended = 0;
        while silent.join_next().await.is_some_and(|ended| ended.is_ok()) {
            ended += 1;
        }
        done.cancel();
        ended
    };
    let (ended, calls) = tokio::join!(ended, calls_go_well(&served, done.clone()));
    assert_eq!(ended, 200, "the server hangs up on every one");
    assert!(calls > 0);
}
