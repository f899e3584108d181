use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a proxy does to a connection instead of passing it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers the first request with this status, and closes.
    Status(u16),
    /// Passes on this many bytes of the answers, and closes.
    CutAfter(usize),
    /// Lets the first request wait this long.
    Wait(Duration),
}

/// A TCP proxy before an HTTP server. Each new connection takes the next fault, as long as there are some.
pub struct FaultyHttp {
    address: SocketAddr,
    faults: Arc<Mutex<Vec<Fault>>>,
}

impl FaultyHttp {
    /// A proxy before `server`, an `http://HOST:PORT`, with a budget of faults.
    pub fn before(server: &str, faults: &[Fault]) -> Self {
        let server = server.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let faults = Arc::new(Mutex::new(faults.iter().rev().copied().collect::<Vec<_>>()));
        let budget = Arc::clone(&faults);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (server, fault) = (server.clone(), budget.lock().expect("no panic").pop());
                // A connection that breaks is what this is for.
                std::thread::spawn(move || drop(serve(client, &server, fault)));
            }
        });
        Self { address, faults }
    }

    /// Its own address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Faults that no connection has met yet.
    pub fn remaining(&self) -> usize {
        self.faults.lock().expect("no panic").len()
    }
}

fn serve(mut client: TcpStream, server: &str, fault: Option<Fault>) -> std::io::Result<()> {
    let mut first = [0; 4096];
    let length = client.read(&mut first)?;
    let cut = match fault {
        Some(Fault::Status(status)) => {
            let answer = format!("HTTP/1.1 {status} Fault\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            client.write_all(answer.as_bytes())?;
            client.shutdown(Shutdown::Write)?;
            // The rest of the request: a socket closed before it was read would be reset, and the answer with it.
            return std::io::copy(&mut client, &mut std::io::sink()).map(drop);
        }
        Some(Fault::Wait(time)) => {
            pause(time);
            u64::MAX
        }
        Some(Fault::CutAfter(bytes)) => bytes as u64,
        None => u64::MAX,
    };
    let mut upstream = TcpStream::connect(server)?;
    upstream.write_all(&first[..length])?;
    let (mut from_client, mut to_server) = (client.try_clone()?, upstream.try_clone()?);
    std::thread::spawn(move || {
        drop(std::io::copy(&mut from_client, &mut to_server));
        drop(to_server.shutdown(Shutdown::Write));
    });
    std::io::copy(&mut upstream.take(cut), &mut client)?;
    client.shutdown(Shutdown::Both)
}

/// Time that passes is what this fault is.
#[allow(clippy::disallowed_methods)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
