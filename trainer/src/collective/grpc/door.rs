//! Lets in who knows the token.

use likeness_proto::{ErrorCode, Refusal, Secret, Sha256};
use subtle::ConstantTimeEq;
use tonic::{Request, Status, service::Interceptor};

/// The digest of the one token.
#[derive(Clone, Debug)]
pub(super) struct Door(Sha256);

impl Door {
    pub(super) fn new(token: &Secret) -> Self {
        Self(Sha256::of(token.expose().as_bytes()))
    }

    /// Takes as long for a wrong token as for the right one.
    fn opens(&self, header: Option<&str>) -> bool {
        let token = header.and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default();
        let presented = Sha256::of(token.as_bytes());
        self.0.as_bytes().ct_eq(presented.as_bytes()).into()
    }
}

impl Interceptor for Door {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if self.opens(header) {
            return Ok(request);
        }
        let message = "the token is not the group leader's; give all trainers of a group the same one";
        Err(Refusal::new(ErrorCode::Unauthenticated, message).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_enters_without_the_right_token() {
        let door = Door::new(&Secret::new("right").unwrap());
        assert!(door.opens(Some("Bearer right")));
        for header in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Bearer wrong"), Some("right")] {
            assert!(!door.opens(header), "{header:?}");
        }
    }
}
