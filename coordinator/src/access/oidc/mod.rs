//! People whom an identity provider vouches for (OpenID Connect): tokens that are signed by it, as JWTs (RFC 7519). Their keys are
//! fetched from it (RFC 7517) and kept.

mod claims;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod keys;
mod provider;
mod signatures;

#[cfg(test)]
pub(super) mod tests;

use std::time::Duration;

use jsonwebtoken::{Validation, decode, decode_header};
use likeness_proto::Refusal;

use super::{Access, unauthenticated};
use crate::audit::Blind;
use crate::clock::Timestamp;
use claims::Claims;
use keys::{Keys, Pace};
use provider::Provider;

/// Whose word is taken for who people are.
#[derive(Clone, Debug)]
pub struct OidcOptions {
    /// The provider, as its tokens name it in `iss`.
    pub issuer: String,
    /// Who its tokens are for, as they name it in `aud`.
    pub audience: String,
    /// Where its keys are; `None`: where `ISSUER/.well-known/openid-configuration` says.
    pub jwks: Option<String>,
    /// The claim that names a person's tenant.
    pub tenant_claim: String,
    /// The claim that names a person's role, or a list with it: `viewer` or `member`.
    pub role_claim: String,
}

/// Why an identity provider cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// An address over which keys could be forged.
    #[error("{0:?} is no address of an identity provider; https://… is, or http://… on this machine")]
    Address(String),
    /// A name that is none.
    #[error("the {0} of the identity provider is empty; its tokens say what it is")]
    Empty(&'static str),
    /// The client of the provider cannot be made.
    #[error("the identity provider cannot be called: {0}")]
    Client(String),
}

/// Knows an identity provider's tokens.
#[derive(Debug)]
pub(crate) struct Oidc {
    options: OidcOptions,
    keys: Keys,
}

impl Oidc {
    /// Takes the provider's word; its keys are fetched when the first token comes.
    pub(crate) fn new(options: OidcOptions) -> Result<Self, OidcError> {
        Self::at_pace(options, Pace { max_age: Duration::from_secs(3600), apart: Duration::from_secs(30) })
    }

    fn at_pace(options: OidcOptions, pace: Pace) -> Result<Self, OidcError> {
        for (name, value) in [
            ("issuer", &options.issuer),
            ("audience", &options.audience),
            ("tenant claim", &options.tenant_claim),
            ("role claim", &options.role_claim),
        ] {
            if value.is_empty() {
                return Err(OidcError::Empty(name));
            }
        }
        signatures::install();
        let provider = Provider::new(&options.issuer, options.jwks.as_deref())?;
        Ok(Self { options, keys: Keys::new(provider, pace) })
    }

    /// Whether a token is one of these, by its looks: three parts, where no other has more than two.
    pub(super) fn is_meant(token: &str) -> bool {
        token.bytes().filter(|byte| *byte == b'.').count() == 2
    }

    /// What a token opens at `now`. Nothing of who the person is goes further, but for a hash by `blind`.
    pub(super) async fn open(&self, token: &str, now: Timestamp, blind: &Blind) -> Result<Access, Refusal> {
        let refuse = |error: jsonwebtoken::errors::Error| {
            unauthenticated(format!("the token of the identity provider is not accepted: {error}; sign in again"))
        };
        let header = decode_header(token).map_err(refuse)?;
        let kid = header
            .kid
            .as_deref()
            .ok_or_else(|| unauthenticated("the token names no key (kid) that it is signed with"))?;
        if header.crit.is_some() {
            return Err(unauthenticated("the token asks for what is not known here (crit)"));
        }
        let key = self.keys.find(kid).await?;
        // The key says how it signs. What the token says must be that; it chooses nothing.
        let mut validation = Validation::new(key.algorithm);
        (validation.validate_exp, validation.validate_aud) = (false, false);
        validation.required_spec_claims.clear();
        let claims = decode::<Claims>(token, &key.key, &validation).map_err(refuse)?.claims;
        claims.access(&self.options, now, blind)
    }
}
