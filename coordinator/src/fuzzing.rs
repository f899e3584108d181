//! What bytes of strangers reach first, for the fuzz targets in `tests/fuzz`. Built for them alone.

use likeness_proto::Role;

use crate::access;
use crate::photos::Picture;

/// Reads a photo's file as an upload does: the bytes that are stored, width and height; none for a file that is refused.
pub fn photo(file: &[u8]) -> Option<(Vec<u8>, u32, u32)> {
    Picture::from_file(file).ok().map(|picture| (picture.png, picture.width, picture.height))
}

/// The prefix of a token that looks like an API key.
pub fn key_prefix(token: &str) -> Option<&str> {
    access::key_prefix(token)
}

/// Whether a token's signature holds by a key of `list`, a JWKS.
pub fn signed(list: &[u8], token: &str) -> bool {
    access::jwt::signed(list, token)
}

/// The tenant whose door a token would open if its signature held, and whether for more than people.
pub fn opened(token: &str, issuer: &str, audience: &str) -> Option<(Option<String>, bool)> {
    let access = access::jwt::opened(token, issuer, audience)?;
    let for_people = access.roles.iter().all(|role| matches!(role, Role::Member | Role::Viewer));
    Some((access.tenant.map(|tenant| tenant.to_string()), !for_people))
}
