//! Tokens and lists of keys without a provider, for the fuzz targets.

use super::*;
use likeness_proto::Secret;

/// Whether the token's signature holds by a key of the list, a JWKS.
pub(crate) fn signed(list: &[u8], token: &str) -> bool {
    signatures::install();
    let set = keys::read(list);
    let Some(key) = decode_header(token).ok().and_then(|header| set.get(&header.kid?).cloned()) else { return false };
    let mut validation = Validation::new(key.algorithm);
    (validation.validate_exp, validation.validate_aud) = (false, false);
    validation.required_spec_claims.clear();
    decode::<Claims>(token, &key.key, &validation).is_ok()
}

/// What the token would open if its signature held; `None`: nothing.
pub(crate) fn opened(token: &str, issuer: &str, audience: &str) -> Option<Access> {
    let claims = jsonwebtoken::dangerous::insecure_decode::<Claims>(token).ok()?.claims;
    let options = OidcOptions {
        issuer: issuer.to_owned(),
        audience: audience.to_owned(),
        jwks: None,
        tenant_claim: "tenant".to_owned(),
        role_claim: "role".to_owned(),
    };
    let blind = Blind::new(&Secret::new("pepper").ok()?);
    claims.access(&options, Timestamp::from_millis(0), &blind).ok()
}
