use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a proxy does to a request instead of passing it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers a request with this status, and closes; 507, no space is left, is for requests that write.
    Status(u16),
    /// Passes on this many bytes of an answer, and closes.
    CutAfter(usize),
    /// Lets a request wait this long.
    Wait(Duration),
    /// Passes on this many bytes of a request that writes, and closes.
    CutUploadAfter(usize),
}

impl Fault {
    /// Meant for requests that write.
    fn is_for_uploads(self) -> bool {
        match self {
            Self::CutUploadAfter(_) | Self::Status(507) => true,
            Self::Status(_) | Self::CutAfter(_) | Self::Wait(_) => false,
        }
    }
}

/// A TCP proxy before an HTTP server. Each request takes the next fault that is meant for its like, as long as there are some.
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
        let faults = Arc::new(Mutex::new(faults.to_vec()));
        let budget = Arc::clone(&faults);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (server, budget) = (server.clone(), Arc::clone(&budget));
                // A connection that breaks is what this is for.
                std::thread::spawn(move || drop(serve(client, &server, &budget)));
            }
        });
        Self { address, faults }
    }

    /// Its own address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Faults that no request has met yet.
    pub fn remaining(&self) -> Vec<Fault> {
        self.faults.lock().expect("no panic").clone()
    }
}

/// The next fault for a request, and whether there was one for any.
fn next(budget: &Mutex<Vec<Fault>>, is_upload: bool) -> (Option<Fault>, bool) {
    let mut faults = budget.lock().expect("no panic");
    let some = !faults.is_empty();
    let fit = faults.iter().position(|fault| is_upload || !fault.is_for_uploads());
    (fit.map(|index| faults.remove(index)), some)
}

fn serve(mut client: TcpStream, server: &str, budget: &Mutex<Vec<Fault>>) -> std::io::Result<()> {
    let mut first = vec![0; 4096];
    let length = client.read(&mut first)?;
    first.truncate(length);
    let (fault, some) = next(budget, first.starts_with(b"PUT "));
    if let Some(line) = first.windows(2).position(|pair| pair == b"\r\n").filter(|_| some) {
        // One request each, so that the next one can meet a fault too.
        first.splice(line + 2..line + 2, *b"connection: close\r\n");
    }
    let (mut up, mut down) = (u64::MAX, u64::MAX);
    match fault {
        Some(Fault::Status(status)) => return refuse(client, status),
        Some(Fault::Wait(time)) => pause(time),
        Some(Fault::CutAfter(bytes)) => down = bytes as u64,
        Some(Fault::CutUploadAfter(bytes)) => up = bytes as u64,
        None => {}
    }
    let mut upstream = TcpStream::connect(server)?;
    let now = first.len().min(usize::try_from(up).unwrap_or(usize::MAX));
    upstream.write_all(&first[..now])?;
    if up != u64::MAX {
        upstream.shutdown(Shutdown::Both)?;
        return client.shutdown(Shutdown::Both);
    }
    let (mut from_client, mut to_server) = (client.try_clone()?, upstream.try_clone()?);
    std::thread::spawn(move || {
        drop(std::io::copy(&mut from_client, &mut to_server));
        drop(to_server.shutdown(Shutdown::Write));
    });
    std::io::copy(&mut upstream.take(down), &mut client)?;
    client.shutdown(Shutdown::Both)
}

fn refuse(mut client: TcpStream, status: u16) -> std::io::Result<()> {
    let answer = format!("HTTP/1.1 {status} Fault\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    client.write_all(answer.as_bytes())?;
    client.shutdown(Shutdown::Write)?;
    // The rest of the request: a socket closed before it was read would be reset, and the answer with it.
    std::io::copy(&mut client, &mut std::io::sink()).map(drop)
}

/// Time that passes is what this fault is.
#[allow(clippy::disallowed_methods)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
