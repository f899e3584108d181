//! Where the server is and how to speak to it.

use crate::exit::{Exit, Failure};
use crate::settings::{Settings, read_token};
use crate::state_dir::StateDir;
use crate::{renewed, tls};
use likeness_proto::v1::admin_client::AdminClient;
use likeness_proto::v1::avatars_client::AvatarsClient;
use likeness_proto::{Bearer, Secret};
use likeness_telemetry::rpc::Asked;
use std::net::SocketAddr;
use std::time::Duration;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A job of 1,000 subjects is told in one message.
const MAX_MESSAGE: usize = 64 << 20;

/// The generated client with the access token on every call.
pub(super) type Stub = AvatarsClient<InterceptedService<Asked<Channel>, Bearer>>;
/// The same of administrators.
pub(super) type Admin = AdminClient<InterceptedService<Asked<Channel>, Bearer>>;

/// A server and the credential for it. What is not given is looked up in the state folder at every connection, so that
/// a server may come back elsewhere.
#[derive(Clone, Debug)]
pub struct Target {
    server: Option<Uri>,
    token: Option<Secret>,
    state: StateDir,
    /// Whom to trust besides those that the system trusts.
    authority: Option<Certificate>,
    /// What to show there of itself.
    identity: Option<Identity>,
}

impl Target {
    /// The server at `address`.
    ///
    /// # Errors
    /// [`Exit::Unexpected`] when the address makes no URL, which no address does.
    pub fn at(address: SocketAddr, token: Secret) -> Result<Self, Failure> {
        let server = format!("http://{address}").parse().map_err(Failure::unexpected)?;
        Ok(Self { server: Some(server), token: Some(token), state: StateDir::at(""), authority: None, identity: None })
    }

    /// The server that the settings name, or the one of the state folder.
    ///
    /// # Errors
    /// [`Exit::Setting`] for a server that is no URL or an authority that cannot be read, [`Exit::Insecure`] for a server off this
    /// machine without TLS.
    pub fn from_settings(settings: &Settings) -> Result<Self, Failure> {
        let server = settings.server.as_deref().map(server_uri).transpose()?;
        let authority = settings
            .tls_ca
            .as_deref()
            .map(|path| renewed::read("tls_ca", path).map(Certificate::from_pem))
            .transpose()?;
        let (token, state) = (settings.token.clone(), StateDir::at(&settings.state));
        Ok(Self { server, token, state, authority, identity: None })
    }

    /// The same for a worker, which may have a certificate.
    ///
    /// # Errors
    /// As [`Target::from_settings`], and [`Exit::Setting`] when certificate or key cannot be read, or is missing.
    pub fn of_worker(settings: &Settings) -> Result<Self, Failure> {
        Ok(Self { identity: tls::of_worker(settings)?, ..Self::from_settings(settings)? })
    }

    /// A client that connects with its first call.
    pub(super) fn connect(&self) -> Result<Stub, Failure> {
        let bearer = Bearer::new(&self.token()?);
        Ok(AvatarsClient::with_interceptor(self.channel()?, bearer).max_decoding_message_size(MAX_MESSAGE))
    }

    /// An administrator's client that connects with its first call.
    pub(super) fn administer(&self) -> Result<Admin, Failure> {
        let bearer = Bearer::new(&self.token()?);
        Ok(AdminClient::with_interceptor(self.channel()?, bearer))
    }

    fn channel(&self) -> Result<Asked<Channel>, Failure> {
        let endpoint = self.endpoint()?.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        let endpoint = endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
        Ok(Asked::by(endpoint.connect_lazy()))
    }

    /// Where to connect, and whom to trust there.
    ///
    /// # Errors
    /// As [`Target::uri`], and [`Exit::Setting`] when the authority is none.
    pub fn endpoint(&self) -> Result<Endpoint, Failure> {
        let uri = self.uri()?;
        let is_tls = uri.scheme_str() == Some("https");
        let endpoint = Endpoint::from(uri);
        if !is_tls {
            return Ok(endpoint);
        }
        let trusted = ClientTlsConfig::new().with_native_roots().ca_certificates(self.authority.clone());
        let tls = self.identity.iter().cloned().fold(trusted, ClientTlsConfig::identity);
        endpoint.tls_config(tls).map_err(|error| {
            Failure::new(Exit::Setting, format!("tls_ca, tls_client_cert or tls_client_key is none: {error}"))
        })
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

    /// What a worker presents on every call; none where its certificate says who it is, unless a token is set as well.
    ///
    /// # Errors
    /// As [`Target::token`], and [`Exit::Setting`] for a certificate that would be shown to nobody.
    pub fn presented(&self) -> Result<Option<Secret>, Failure> {
        match &self.identity {
            None => self.token().map(Some),
            Some(_) if self.uri()?.scheme_str() == Some("https") => Ok(self.token.clone()),
            Some(_) => Err(Failure::new(Exit::Setting, "tls_client_cert needs a server that is called by https://")),
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
/// [`Exit::Setting`] for what is no URL, [`Exit::Insecure`] for a host off this machine without TLS: the token would travel in the
/// clear.
pub(crate) fn server_uri(text: &str) -> Result<Uri, Failure> {
    let refuse = || {
        Failure::new(
            Exit::Setting,
            format!("the server `{text}` is not accepted; https://HOST:PORT is, or http:// on this machine"),
        )
    };
    let uri: Uri = text.parse().map_err(|_| refuse())?;
    let host = uri.host().ok_or_else(refuse)?;
    match uri.scheme_str() {
        Some("https") => return Ok(uri),
        Some("http") => {}
        _ => return Err(refuse()),
    }
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    if host == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
        return Ok(uri);
    }
    Err(Failure::new(
        Exit::Insecure,
        format!(
            "the server {text} is not on this machine, and without TLS the token would travel in the clear; use https://"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_this_machine_only_tls_is_a_server() {
        for url in ["http://127.0.0.1:7431", "http://localhost:1", "http://[::1]:7431"] {
            server_uri(url).unwrap();
        }
        assert_eq!(server_uri("http://example.org:7431").unwrap_err().exit, Exit::Insecure);
        server_uri("https://example.org:7431").unwrap();
        for url in ["127.0.0.1:7431", "http://", "https://", "ftp://127.0.0.1"] {
            assert_eq!(server_uri(url).unwrap_err().exit, Exit::Setting, "{url}");
        }
    }

    #[test]
    fn a_state_folder_that_never_served_says_how_to_start() {
        let home = tempfile::tempdir().unwrap();
        let target =
            Target { server: None, token: None, state: StateDir::at(home.path()), authority: None, identity: None };
        let failure = target.connect().unwrap_err();
        assert!(failure.exit == Exit::Unreachable && failure.message.contains("likeness up"), "{failure}");
    }

    #[tokio::test]
    async fn a_server_that_comes_back_elsewhere_is_found() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::at(home.path()).lock().unwrap();
        let target = Target { server: None, token: None, state: state.dir().clone(), authority: None, identity: None };
        state.announce("127.0.0.1:1".parse().unwrap()).unwrap();
        assert_eq!(target.uri().unwrap(), "http://127.0.0.1:1");
        state.announce("127.0.0.1:2".parse().unwrap()).unwrap();
        assert_eq!(target.uri().unwrap(), "http://127.0.0.1:2");
    }
}
