//! Tenants and keys as they are printed.

use super::time;
use crate::output::columns;
use likeness_proto::{Role, v1};
use serde::Serialize;

/// A tenant.
#[derive(Debug, Serialize)]
pub struct TenantView {
    /// Its id.
    pub id: String,
    /// When it was made.
    pub created_at: Option<String>,
    /// Days after which subjects are forgotten; 0: never.
    pub retention_days: u32,
}

/// A key.
#[derive(Debug, Serialize)]
pub struct KeyView {
    /// What it begins with.
    pub prefix: String,
    /// Whose it is; none: a worker's or administrator's.
    pub tenant: Option<String>,
    /// What it may be used for.
    pub role: String,
    /// When it was made.
    pub created_at: Option<String>,
    /// When it stops; none: never.
    pub expires_at: Option<String>,
    /// When it was stopped.
    pub revoked_at: Option<String>,
    /// The whole of it, told when it is made and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// What a replay of erasures came to.
#[derive(Debug, Serialize)]
pub struct ReplayView {
    /// Subjects that were ever forgotten.
    pub buried: u64,
    /// Those that were there all the same, and are no more.
    pub forgotten: u64,
}

impl From<&v1::ReplayErasuresResponse> for ReplayView {
    fn from(replayed: &v1::ReplayErasuresResponse) -> Self {
        let v1::ReplayErasuresResponse { buried, forgotten } = *replayed;
        Self { buried, forgotten }
    }
}

impl From<&v1::Tenant> for TenantView {
    fn from(tenant: &v1::Tenant) -> Self {
        Self {
            id: tenant.id.clone(),
            created_at: time(tenant.created_at.as_ref()),
            retention_days: tenant.retention_days,
        }
    }
}

impl From<&v1::ApiKey> for KeyView {
    fn from(key: &v1::ApiKey) -> Self {
        Self {
            prefix: key.prefix.clone(),
            tenant: (!key.tenant.is_empty()).then(|| key.tenant.clone()),
            role: Role::decode(key.role).map_or_else(|_| "unknown".to_owned(), |role| role.to_string()),
            created_at: time(key.created_at.as_ref()),
            expires_at: time(key.expires_at.as_ref()),
            revoked_at: time(key.revoked_at.as_ref()),
            token: None,
        }
    }
}

impl KeyView {
    /// A key that was just made, with its secret.
    #[must_use]
    pub fn created(made: &v1::CreatedKey) -> Self {
        let key = made.key.clone().unwrap_or_default();
        Self { token: Some(made.token.clone()), ..Self::from(&key) }
    }

    fn standing(&self) -> String {
        match (&self.revoked_at, &self.expires_at) {
            (Some(at), _) => format!("revoked {at}"),
            (None, Some(at)) => format!("until {at}"),
            (None, None) => "live".to_owned(),
        }
    }
}

/// A key that was just made, as text.
#[must_use]
pub fn created_key(key: &KeyView) -> String {
    let token = key.token.as_deref().unwrap_or_default();
    format!("{token}\nThis is the only time that the key is shown.")
}

/// Keys as a table.
#[must_use]
pub fn key_list(keys: &[KeyView]) -> String {
    let row = |key: &KeyView| {
        let tenant = key.tenant.clone().unwrap_or_else(|| "–".to_owned());
        [key.prefix.clone(), tenant, key.role.clone(), key.standing()]
    };
    columns(&keys.iter().map(row).collect::<Vec<_>>())
}

/// Tenants as a table.
#[must_use]
pub fn tenant_list(tenants: &[TenantView]) -> String {
    let kept = |days| if days == 0 { "kept".to_owned() } else { format!("kept {days} days") };
    columns(&tenants.iter().map(|tenant| [tenant.id.clone(), kept(tenant.retention_days)]).collect::<Vec<_>>())
}
