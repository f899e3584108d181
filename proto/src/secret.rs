//! The token that clients and workers present.

use std::fmt;

use tonic::{Request, Status, metadata::AsciiMetadataValue, service::Interceptor};

/// A token. Never shown: neither by `Debug` nor by an error.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// A text that cannot be a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token is not accepted; it must be 1 to 8000 visible ASCII characters")]
pub struct SecretError;

impl Secret {
    /// The token `text`, without white space around it (files end with a line feed).
    ///
    /// # Errors
    /// When it is empty or cannot stand in a header.
    pub fn new(text: &str) -> Result<Self, SecretError> {
        let token = text.trim();
        let valid = (1..=8000).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
        valid.then(|| Self(token.to_owned())).ok_or(SecretError)
    }

    /// The token itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Puts `authorization: Bearer TOKEN` on every request, if there is a token.
#[derive(Clone, Debug)]
pub struct Bearer(Option<AsciiMetadataValue>);

impl Bearer {
    /// Presents `token`.
    pub fn new(token: &Secret) -> Self {
        let mut value: AsciiMetadataValue =
            format!("Bearer {}", token.expose()).try_into().expect("a secret holds visible ASCII alone");
        value.set_sensitive(true);
        Self(Some(value))
    }

    /// Presents nothing: the connection has a certificate that speaks for the caller.
    pub fn none() -> Self {
        Self(None)
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_presented_and_never_shown() {
        let secret = Secret::new(" s3cret\n").unwrap();
        let request = Bearer::new(&secret).call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer s3cret");
        assert!(!format!("{secret:?} {request:?}").contains("s3cret"));
    }

    #[test]
    fn a_token_that_fits_no_header_is_refused() {
        for bad in ["", " ", "a b", "ä", "a\nb"] {
            assert_eq!(Secret::new(bad), Err(SecretError));
        }
    }
}
