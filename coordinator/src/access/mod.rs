//! Who may call what. Every call of every service carries a token, or comes over a connection with a worker's certificate; tenant, roles
//! and a worker's name come from that and from nothing else.

mod certificates;
mod gate;
mod guard;
mod keys;
mod oidc;
pub(crate) mod table;
mod tls;
mod watched;

#[cfg(test)]
mod tests;

use likeness_proto::{ErrorCode, Refusal, Role, Secret, Sha256, TenantId};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tonic::Request;

use crate::audit::Actor;

pub use certificates::{CertificatesError, NamedWorker, Trade, WorkerCertificates};
pub(crate) use gate::{Caller, Gate};
#[cfg(test)]
pub(crate) use guard::Guard;
pub(crate) use guard::Post;
pub(crate) use keys::Pepper;
#[cfg(fuzzing)]
pub(crate) use keys::prefix as key_prefix;
pub(crate) use oidc::Oidc;
#[cfg(fuzzing)]
pub(crate) use oidc::fuzzing as jwt;
pub use oidc::{OidcError, OidcOptions};
pub use tls::{LatestTls, Tls, TlsError};
pub(crate) use watched::end as lapse;

/// What a credential opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The tenant whose front door it opens.
    pub tenant: Option<TenantId>,
    /// What it may be used for.
    pub roles: Vec<Role>,
    /// Who presents it, as the audit log names them.
    pub actor: Actor,
    /// The worker that it names, which then has no other name and no other trade.
    pub worker: Option<NamedWorker>,
}

impl Access {
    /// Whether it opens this method, or this part of the status page.
    pub(crate) fn may(&self, path: &str) -> bool {
        let (roles, _) = table::method(path);
        self.roles.iter().any(|role| roles.contains(role))
    }

    /// The tenant whose front door it opens.
    pub(crate) fn tenant(&self) -> Result<&TenantId, Refusal> {
        let none = || Refusal::new(ErrorCode::Forbidden, "the credential is of no tenant; use one of a tenant's");
        self.tenant.as_ref().ok_or_else(none)
    }
}

/// The tokens that are known without looking into the store.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<(Sha256, Access)>);

impl Tokens {
    /// One tenant, whose one token serves people, workers and administrators alike.
    pub fn embedded(tenant: TenantId, token: &Secret) -> Self {
        let mut tokens = Self::default();
        let roles = vec![Role::Member, Role::Worker, Role::Admin];
        tokens.add(token, Access { tenant: Some(tenant), roles, worker: None, actor: Actor::embedded() });
        tokens
    }

    /// Lets `token` open `access`.
    pub fn add(&mut self, token: &Secret, access: Access) {
        self.0.push((Sha256::of(token.expose().as_bytes()), access));
    }

    /// Tenants that have a token here.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        self.0.iter().filter_map(|(_, access)| access.tenant.as_ref())
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
}

fn unauthenticated(message: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::Unauthenticated, message)
}

/// The tenant of the credential that came with a call, as its guard noted it.
pub(crate) fn tenant<T>(request: &Request<T>) -> Result<TenantId, Refusal> {
    let access = request.extensions().get::<Access>();
    access.ok_or_else(|| unauthenticated("the call carries no credential"))?.tenant().cloned()
}

/// Who called, as its guard noted it.
pub(crate) fn actor<T>(request: &Request<T>) -> Result<Actor, Refusal> {
    let access = request.extensions().get::<Access>();
    access.map(|access| access.actor.clone()).ok_or_else(|| unauthenticated("the call carries no credential"))
}

/// The worker that calls, where its credential names one.
pub(crate) fn worker<T>(request: &Request<T>) -> Option<NamedWorker> {
    request.extensions().get::<Access>()?.worker.clone()
}
