//! As much of a browser as the tests need: it sends what it is told, and shows a cookie.

use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::{LatestTls, PageOptions};

/// Where a page is to be served, and its address.
pub(super) async fn page(tls: Option<LatestTls>) -> (PageOptions, SocketAddr) {
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    (PageOptions { listener, tls }, address)
}

#[derive(Clone, Debug)]
pub(super) struct Browser {
    pub(super) address: SocketAddr,
    cookie: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) bytes: Vec<u8>,
    pub(super) body: String,
    /// Whether the body came whole.
    pub(super) whole: bool,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The cookie that it sets, as a browser shows it.
    pub(super) fn cookie(&self) -> String {
        self.header("set-cookie").split(';').next().unwrap().to_owned()
    }
}

impl Browser {
    pub(super) fn at(address: SocketAddr) -> Self {
        Self { address, cookie: None }
    }

    pub(super) fn with(&self, cookie: &str) -> Self {
        Self { cookie: Some(cookie.to_owned()), ..self.clone() }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    /// Sends the form of the page.
    pub(super) async fn sign_in(&self, token: &str) -> Answer {
        let form = form_urlencoded::Serializer::new(String::new()).append_pair("token", token).finish();
        self.ask("POST", "/sign-in", &[("sec-fetch-site", "same-origin")], &form).await
    }

    pub(super) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let response = self.send(method, path, headers, body).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let (mut body, mut bytes, mut whole) = (response.into_body(), Vec::new(), true);
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => bytes.extend(frame.into_data().unwrap_or_default()),
                Err(_broken) => {
                    whole = false;
                    break;
                }
            }
        }
        let body = String::from_utf8_lossy(&bytes).into_owned();
        Answer { status, headers, bytes, body, whole }
    }

    /// A connection of its own for each request.
    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response<Incoming> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        sender.send_request(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await.unwrap()
    }
}
