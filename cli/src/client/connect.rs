//! Where the server is and how to speak to it.

use crate::exit::{Exit, Failure};
use crate::settings::{Settings, read_token};
use crate::state_dir::StateDir;
use likeness_proto::v1::avatars_client::AvatarsClient;
use likeness_proto::{Bearer, Secret};
use std::net::SocketAddr;
use std::time::Duration;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A job of 1,000 subjects is told in one message.
const MAX_MESSAGE: usize = 64 << 20;

/// The generated client with the access token on every call.
pub(super) type Stub = AvatarsClient<InterceptedService<Channel, Bearer>>;

/// A server and the credential for it. What is not given is looked up in the state folder at every connection, so that
/// a server may come back elsewhere.
#[derive(Clone, Debug)]
pub struct Target {
    server: Option<Uri>,
    token: Option<Secret>,
    state: StateDir,
}

impl Target {
    /// The server at `address`.
    ///
    /// # Errors
    /// [`Exit::Unexpected`] when the address makes no URL, which no address does.
    pub fn at(address: SocketAddr, token: Secret) -> Result<Self, Failure> {
        let server = format!("http://{address}").parse().map_err(Failure::unexpected)?;
        Ok(Self { server: Some(server), token: Some(token), state: StateDir::at("") })
    }

    /// The server that the settings name, or the one of the state folder.
    ///
    /// # Errors
    /// [`Exit::Setting`] for a server that is no `http://` URL, [`Exit::Insecure`] for one off this machine.
    pub fn from_settings(settings: &Settings) -> Result<Self, Failure> {
        let server = settings.server.as_deref().map(server_uri).transpose()?;
        Ok(Self { server, token: settings.token.clone(), state: StateDir::at(&settings.state) })
    }

    /// A client that connects with its first call.
    pub(super) fn connect(&self) -> Result<Stub, Failure> {
        let bearer = Bearer::new(&self.token()?);
        let channel = Endpoint::from(self.uri()?)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .tcp_nodelay(true)
            .connect_lazy();
        Ok(AvatarsClient::with_interceptor(channel, bearer).max_decoding_message_size(MAX_MESSAGE))
    }

    /// The server's URL.
    ///
    /// # Errors
    /// [`Exit::Unreachable`] when none is named and no server was ever started on the state folder.
    pub fn uri(&self) -> Result<Uri, Failure> {
        match (&self.server, self.state.address()?) {
            (Some(uri), _) => Ok(uri.clone()),
            (None, Some(address)) => format!("http://{address}").parse().map_err(Failure::unexpected),
            (None, None) => Err(Failure::new(
                Exit::Unreachable,
                format!(
                    "no server was started on the state folder {}; start one with `likeness up`, or name one with --server",
                    self.state.path().display()
                ),
            )),
        }
    }

    /// The access token.
    ///
    /// # Errors
    /// As [`Target::uri`], and [`Exit::Token`] when there is none in the state folder.
    pub fn token(&self) -> Result<Secret, Failure> {
        match &self.token {
            Some(token) => Ok(token.clone()),
            // The more telling failure, when there is no server either.
            None => self.uri().and_then(|_| read_token(&self.state.token_file())),
        }
    }
}

/// Reads a server's URL.
///
/// # Errors
/// [`Exit::Setting`] for what is no `http://` URL, [`Exit::Insecure`] for a host off this machine: the token would travel
/// in the clear.
pub(crate) fn server_uri(text: &str) -> Result<Uri, Failure> {
    let refuse = || Failure::new(Exit::Setting, format!("the server `{text}` is not accepted; http://HOST:PORT is"));
    let uri: Uri = text.parse().map_err(|_| refuse())?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(refuse)?;
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    if host == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
        return Ok(uri);
    }
    Err(Failure::new(
        Exit::Insecure,
        format!("the server {text} is not on this machine, and without TLS the token would travel in the clear"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_on_this_machine_is_a_server() {
        for url in ["http://127.0.0.1:7431", "http://localhost:1", "http://[::1]:7431"] {
            server_uri(url).unwrap();
        }
        assert_eq!(server_uri("http://example.org:7431").unwrap_err().exit, Exit::Insecure);
        for url in ["127.0.0.1:7431", "https://127.0.0.1:7431", "http://", "ftp://127.0.0.1"] {
            assert_eq!(server_uri(url).unwrap_err().exit, Exit::Setting, "{url}");
        }
    }

    #[test]
    fn a_state_folder_that_never_served_says_how_to_start() {
        let home = tempfile::tempdir().unwrap();
        let target = Target { server: None, token: None, state: StateDir::at(home.path()) };
        let failure = target.connect().unwrap_err();
        assert!(failure.exit == Exit::Unreachable && failure.message.contains("likeness up"), "{failure}");
    }

    #[tokio::test]
    async fn a_server_that_comes_back_elsewhere_is_found() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::at(home.path()).lock().unwrap();
        let target = Target { server: None, token: None, state: state.dir().clone() };
        state.announce("127.0.0.1:1".parse().unwrap()).unwrap();
        assert_eq!(target.uri().unwrap(), "http://127.0.0.1:1");
        state.announce("127.0.0.1:2".parse().unwrap()).unwrap();
        assert_eq!(target.uri().unwrap(), "http://127.0.0.1:2");
    }
}
