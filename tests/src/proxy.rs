use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A way to a server that can be cut.
pub struct Proxy {
    address: SocketAddr,
    /// Both ends of every connection since the last cut.
    open: Arc<Mutex<Vec<[TcpStream; 2]>>>,
    is_down: Arc<AtomicBool>,
}

impl Proxy {
    /// Leads to `server`, which need not listen yet.
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let proxy =
            Self { address: listener.local_addr().expect("an address"), open: Arc::default(), is_down: Arc::default() };
        let (open, is_down) = (Arc::clone(&proxy.open), Arc::clone(&proxy.is_down));
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if let (false, Ok(far)) = (is_down.load(Ordering::SeqCst), TcpStream::connect(server)) {
                    let mut open = open.lock().expect("no panic");
                    open.push([&near, &far].map(|end| end.try_clone().expect("a handle")));
                    pass_on(&near, &far);
                    pass_on(&far, &near);
                }
            }
        });
        proxy
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every connection there is, and lets none through until it is [`mend`](Self::mend)ed.
    pub fn take_down(&self) {
        self.is_down.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.is_down.store(false, Ordering::SeqCst);
    }

    /// Cuts every connection there is; how many those were. The next ones go through again.
    pub fn cut(&self) -> usize {
        let open = std::mem::take(&mut *self.open.lock().expect("no panic"));
        let cut = |[near, far]: &&[TcpStream; 2]| {
            let was_open = near.shutdown(Shutdown::Both).is_ok();
            let _ = far.shutdown(Shutdown::Both); // closed by now, perhaps, since the other end is
            was_open
        };
        open.iter().filter(cut).count()
    }
}

fn pass_on(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
    for end in [&from, &to] {
        end.set_nodelay(true).expect("a socket");
    }
    thread::spawn(move || {
        let _ = copy(&mut from, &mut to); // until one of them is closed or cut
        let _ = to.shutdown(Shutdown::Both);
    });
}
