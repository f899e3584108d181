//! What a token says, once it is known who says it.

use std::collections::HashMap;

use likeness_proto::{ErrorCode, Refusal, Role, TenantId};
use serde::Deserialize;
use serde_json::Value;

use super::OidcOptions;
use crate::access::{Access, unauthenticated};
use crate::audit::{Actor, Blind};
use crate::clock::Timestamp;

/// Seconds that the provider's clock and ours may be apart.
const LEEWAY: f64 = 30.0;

/// The roles that a provider may give: workers and administrators are known otherwise.
const ROLES: [Role; 2] = [Role::Member, Role::Viewer];

/// Claims of RFC 7519, section 4.1; times are seconds since the Unix epoch.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Claims {
    iss: String,
    sub: String,
    aud: OneOrMore,
    exp: f64,
    nbf: Option<f64>,
    #[serde(flatten)]
    others: HashMap<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn all(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::More(texts) => texts,
        }
    }
}

impl Claims {
    /// What they open at `now`, if they are meant for us.
    pub(super) fn access(&self, options: &OidcOptions, now: Timestamp, blind: &Blind) -> Result<Access, Refusal> {
        let now = now.millis() as f64 / 1000.0;
        if self.iss != options.issuer {
            let (theirs, ours) = (&self.iss, &options.issuer);
            return Err(unauthenticated(format!("the token is of the issuer {theirs:?}; accepted is {ours:?}")));
        }
        if !self.aud.all().contains(&options.audience) {
            let (theirs, ours) = (self.aud.all(), &options.audience);
            return Err(unauthenticated(format!("the token is for the audience {theirs:?}; accepted is {ours:?}")));
        }
        if now >= self.exp + LEEWAY {
            return Err(unauthenticated("the token has expired; sign in again"));
        }
        if self.nbf.is_some_and(|begin| now < begin - LEEWAY) {
            return Err(unauthenticated(
                "the token is not yet valid; look at the clocks of the provider and of this server",
            ));
        }
        let (tenant, roles) = (self.tenant(&options.tenant_claim)?, self.roles(&options.role_claim)?);
        let actor = Actor::person(&blind.person(&self.iss, &self.sub));
        Ok(Access { tenant: Some(tenant), roles, worker: None, actor })
    }

    fn tenant(&self, claim: &str) -> Result<TenantId, Refusal> {
        let named = self.others.get(claim).and_then(Value::as_str);
        let named = named
            .ok_or_else(|| forbidden(format!("the token names no tenant; its claim {claim:?} does where it is set")))?;
        named.parse().map_err(|error| forbidden(format!("the token's claim {claim:?} names no tenant: {error}")))
    }

    /// Those that it names and may name.
    fn roles(&self, claim: &str) -> Result<Vec<Role>, Refusal> {
        let named: Vec<&str> = match self.others.get(claim) {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(name)) => vec![name],
            Some(_) | None => Vec::new(),
        };
        let roles: Vec<Role> = ROLES.into_iter().filter(|role| named.contains(&role.as_str())).collect();
        if roles.is_empty() {
            let message =
                format!("the token's claim {claim:?} gives the roles {named:?}; one of member and viewer is needed");
            return Err(forbidden(message));
        }
        Ok(roles)
    }
}

fn forbidden(message: String) -> Refusal {
    Refusal::new(ErrorCode::Forbidden, message)
}
