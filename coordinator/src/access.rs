//! Who may call. Every call of every service carries a token; the tenant comes from it and from nothing else.

use likeness_proto::{ErrorCode, Refusal, Secret, Sha256, TenantId};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// What a token opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The tenant whose front door it opens.
    pub tenant: Option<TenantId>,
    /// Whether workers may present it. Workers see every tenant's tasks: keep such tokens from people.
    pub fleet: bool,
}

/// The tokens that are known.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<(Sha256, Access)>);

impl Tokens {
    /// One tenant, whose one token serves people and workers alike.
    pub fn embedded(tenant: TenantId, token: &Secret) -> Self {
        let mut tokens = Self::default();
        tokens.add(token, Access { tenant: Some(tenant), fleet: true });
        tokens
    }

    /// Lets `token` open `access`.
    pub fn add(&mut self, token: &Secret, access: Access) {
        self.0.push((Sha256::of(token.expose().as_bytes()), access));
    }

    /// What a token opens. Takes as long for a wrong one as for a right one.
    fn open(&self, token: &str) -> Option<&Access> {
        let presented = Sha256::of(token.as_bytes());
        let mut found = u64::MAX;
        for (index, (known, _)) in self.0.iter().enumerate() {
            let same: Choice = known.as_bytes().ct_eq(presented.as_bytes());
            found = u64::conditional_select(&found, &(index as u64), same);
        }
        self.0.get(usize::try_from(found).ok()?).map(|(_, access)| access)
    }

    fn check<T>(&self, request: &Request<T>) -> Result<&Access, Refusal> {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let Some(header) = header else {
            return Err(unauthenticated("the call carries no token; send `authorization: Bearer TOKEN`"));
        };
        let token = header.strip_prefix("Bearer ").unwrap_or_default();
        self.open(token)
            .ok_or_else(|| unauthenticated("the token is not known here; use the one in the server's state folder"))
    }
}

fn unauthenticated(message: &str) -> Refusal {
    Refusal::new(ErrorCode::Unauthenticated, message)
}

/// Lets people in, and notes their tenant on the request.
#[derive(Clone, Debug)]
pub(crate) struct FrontDoor(pub(crate) Tokens);

impl Interceptor for FrontDoor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let access = self.0.check(&request)?;
        let tenant = access.tenant.clone().ok_or_else(|| unauthenticated("the token is a worker's; use a tenant's"))?;
        request.extensions_mut().insert(tenant);
        Ok(request)
    }
}

/// Lets workers in.
#[derive(Clone, Debug)]
pub(crate) struct FleetDoor(pub(crate) Tokens);

impl Interceptor for FleetDoor {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if self.0.check(&request)?.fleet {
            return Ok(request);
        }
        Err(unauthenticated("the token is a tenant's; workers need one of the fleet").into())
    }
}

/// The tenant that [`FrontDoor`] noted.
pub(crate) fn tenant<T>(request: &Request<T>) -> Result<TenantId, Refusal> {
    let tenant = request.extensions().get::<TenantId>().cloned();
    tenant.ok_or_else(|| unauthenticated("the call came past the front door"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        let secret = |text| Secret::new(text).unwrap();
        let mut tokens = Tokens::embedded("default".parse().unwrap(), &secret("both"));
        tokens.add(&secret("people"), Access { tenant: Some("acme".parse().unwrap()), fleet: false });
        tokens.add(&secret("workers"), Access { tenant: None, fleet: true });
        tokens
    }

    fn with(header: &str) -> Request<()> {
        let mut request = Request::new(());
        request.metadata_mut().insert("authorization", header.parse().unwrap());
        request
    }

    #[test]
    fn the_tenant_comes_from_the_token() {
        for (header, name) in [("Bearer both", "default"), ("Bearer people", "acme")] {
            let request = FrontDoor(tokens()).call(with(header)).unwrap();
            assert_eq!(tenant(&request).unwrap().as_str(), name);
        }
    }

    #[test]
    fn nobody_enters_without_the_right_token() {
        for header in ["Bearer", "Bearer ", "Bearer bot", "Bearer both2", "both", "Basic both", "bearer both"] {
            let status = FrontDoor(tokens()).call(with(header)).unwrap_err();
            assert_eq!(status.code(), tonic::Code::Unauthenticated, "{header}");
            assert_eq!(FleetDoor(tokens()).call(with(header)).unwrap_err().code(), tonic::Code::Unauthenticated);
        }
        assert!(FrontDoor(tokens()).call(Request::new(())).is_err());
        assert!(FrontDoor(Tokens::default()).call(with("Bearer both")).is_err(), "no token, no entry");
    }

    #[test]
    fn people_and_workers_have_doors_of_their_own() {
        assert!(FleetDoor(tokens()).call(with("Bearer people")).is_err());
        assert!(FrontDoor(tokens()).call(with("Bearer workers")).is_err());
        assert!(FleetDoor(tokens()).call(with("Bearer workers")).is_ok());
        assert!(FleetDoor(tokens()).call(with("Bearer both")).is_ok());
    }

    #[test]
    fn tokens_are_never_shown() {
        assert!(!format!("{:?}", tokens()).contains("people"));
    }
}
