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
    /// Its share of the fleet.
    pub weight: u32,
    /// Tasks that run at a time, at most; 0: no limit. So the others.
    pub max_running_tasks: u32,
    /// Jobs that have not ended.
    pub max_queued_jobs: u32,
    /// Bytes stored.
    pub max_bytes: u64,
    /// Photos of all its subjects.
    pub max_photos: u32,
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
        let v1::Limits { running_tasks, queued_jobs, bytes, photos } = tenant.limits.unwrap_or_default();
        Self {
            id: tenant.id.clone(),
            created_at: time(tenant.created_at.as_ref()),
            retention_days: tenant.retention_days,
            weight: tenant.weight,
            max_running_tasks: running_tasks,
            max_queued_jobs: queued_jobs,
            max_bytes: bytes,
            max_photos: photos,
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

impl TenantView {
    /// What it is given, in words.
    fn terms(&self) -> String {
        let kept = match self.retention_days {
            0 => "kept".to_owned(),
            days => format!("kept {days} days"),
        };
        let limits = [
            (u64::from(self.max_running_tasks), "tasks running"),
            (u64::from(self.max_queued_jobs), "jobs queued"),
            (self.max_bytes, "bytes"),
            (u64::from(self.max_photos), "photos"),
        ];
        let limits = limits.iter().filter(|(most, _)| *most > 0).map(|(most, what)| format!("at most {most} {what}"));
        [kept, format!("weight {}", self.weight)].into_iter().chain(limits).collect::<Vec<_>>().join(", ")
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
    columns(&tenants.iter().map(|tenant| [tenant.id.clone(), tenant.terms()]).collect::<Vec<_>>())
}
