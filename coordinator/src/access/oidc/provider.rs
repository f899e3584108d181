//! Calls to the identity provider.

use std::time::Duration;

use reqwest::{Client, Url, redirect};
use serde::Deserialize;

use super::OidcError;

/// A call takes at most this long.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of an answer at most.
const LARGEST: usize = 256 << 10;

/// Where a provider's keys are.
#[derive(Debug)]
pub(super) struct Provider {
    client: Client,
    issuer: String,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// They lie here.
    Keys(Url),
    /// This says where.
    Configuration(Url),
}

impl Provider {
    pub(super) fn new(issuer: &str, jwks: Option<&str>) -> Result<Self, OidcError> {
        let place = match jwks {
            Some(jwks) => Place::Keys(address(jwks)?),
            None => {
                let path = ".well-known/openid-configuration";
                Place::Configuration(address(&format!("{}/{path}", issuer.trim_end_matches('/')))?)
            }
        };
        // reqwest has no provider of cryptography of its own. Fails only when there is one already.
        let _there = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().timeout(LIMIT).redirect(redirect::Policy::none()).build();
        let client = client.map_err(|error| OidcError::Client(error.to_string()))?;
        Ok(Self { client, issuer: issuer.to_owned(), place })
    }

    /// The JWKS as it is now.
    pub(super) async fn keys(&self) -> Result<Vec<u8>, String> {
        match &self.place {
            Place::Keys(url) => self.get(url.clone()).await,
            Place::Configuration(url) => {
                let text = self.get(url.clone()).await?;
                let found: Configuration = serde_json::from_slice(&text).map_err(|error| format!("{url}: {error}"))?;
                if found.issuer != self.issuer {
                    return Err(format!("{url} is of the issuer {:?}, not of {:?}", found.issuer, self.issuer));
                }
                self.get(address(&found.jwks_uri).map_err(|error| error.to_string())?).await
            }
        }
    }

    async fn get(&self, url: Url) -> Result<Vec<u8>, String> {
        let fail = |error: reqwest::Error| format!("{url}: {error}");
        let mut answer = self.client.get(url.clone()).send().await.map_err(fail)?.error_for_status().map_err(fail)?;
        if !answer.status().is_success() {
            return Err(format!("{url} answers {}", answer.status()));
        }
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(fail)? {
            text.extend_from_slice(&chunk);
            if text.len() > LARGEST {
                return Err(format!("{url} answers with more than {LARGEST} bytes"));
            }
        }
        Ok(text)
    }
}

/// OpenID Connect Discovery 1.0, section 3.
#[derive(Deserialize)]
struct Configuration {
    issuer: String,
    jwks_uri: String,
}

/// An address whose answers nobody else can write.
fn address(text: &str) -> Result<Url, OidcError> {
    let refuse = || OidcError::Address(text.to_owned());
    let url = Url::parse(text).map_err(|_| refuse())?;
    let local = match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
        None => false,
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if local => Ok(url),
        _other => Err(refuse()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fetched_where_nobody_can_forge_them() {
        for text in ["https://id.example.org/keys", "http://127.0.0.1:1/keys", "http://[::1]/", "http://localhost/"] {
            address(text).unwrap();
        }
        for text in
            ["", "id.example.org", "http://id.example.org/keys", "http://127.0.0.1.example.org/", "file:///etc/passwd"]
        {
            assert!(address(text).unwrap_err().to_string().contains("https://"), "{text}");
        }
    }
}
