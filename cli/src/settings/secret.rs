//! Secrets that come from files.

use crate::exit::{Exit, Failure};
use likeness_proto::Secret;
use std::path::Path;

/// Reads an access token from a file; white space around it is not part of it.
///
/// # Errors
/// [`Exit::Token`] when the file cannot be read or holds no token.
pub fn read_token(path: &Path) -> Result<Secret, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(Exit::Token, format!("cannot read the token file {}: {error}", path.display()))
    })?;
    token(&text).map_err(|failure| failure.about(path.display()))
}

/// The token `text`.
///
/// # Errors
/// [`Exit::Token`] when it can be none.
pub fn token(text: &str) -> Result<Secret, Failure> {
    Secret::new(text).map_err(|error| Failure::new(Exit::Token, error.to_string()))
}
