//! The administrators' desk: tenants and keys.

use std::sync::Arc;
use std::time::Duration;

use likeness_proto::v1;
use likeness_proto::v1::admin_server::Admin;
use likeness_proto::{Refusal, Role, TenantId};
use tonic::{Request, Response, Status};

use crate::access::{Gate, actor};
use crate::store::{Key, Limits, NewKey, Store, Tenant, Terms, TermsChange};
use crate::sweep::{self, Replayed};

/// Serves administrators.
pub(crate) struct AdminDesk<S>(pub(crate) Arc<Gate<S>>);

/// The largest share of a tenant.
const HEAVIEST: u32 = 1000;

type Answer<T> = Result<Response<T>, Status>;

/// A key lives and overlaps at most this long, or forever.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

#[tonic::async_trait]
impl<S: Store> Admin for AdminDesk<S> {
    async fn create_tenant(&self, request: Request<v1::CreateTenantRequest>) -> Answer<v1::Tenant> {
        let (by, ask) = (actor(&request)?, request.into_inner());
        let id: TenantId = ask.id.parse().map_err(Refusal::from)?;
        let limits = limits(ask.limits.unwrap_or_default())?;
        let weight = weight(if ask.weight == 0 { 1 } else { ask.weight })?;
        let terms = Terms { retention_days: ask.retention_days, weight, limits };
        let tenant = self.store().create_tenant(&id, &terms, &by).await.map_err(Refusal::from)?;
        Ok(Response::new(tenant.into()))
    }

    async fn update_tenant(&self, request: Request<v1::UpdateTenantRequest>) -> Answer<v1::Tenant> {
        let (by, ask) = (actor(&request)?, request.into_inner());
        let id: TenantId = ask.id.parse().map_err(Refusal::from)?;
        let change = TermsChange {
            retention_days: ask.retention_days,
            weight: ask.weight.map(weight).transpose()?,
            running_tasks: ask.running_tasks,
            queued_jobs: ask.queued_jobs,
            bytes: ask.bytes.map(bytes).transpose()?,
            photos: ask.photos,
        };
        let tenant = self.store().update_tenant(&id, &change, &by).await.map_err(Refusal::from)?;
        tracing::info!(tenant = %id, ?change, "tenant changed");
        Ok(Response::new(tenant.into()))
    }

    async fn list_tenants(&self, _request: Request<v1::ListTenantsRequest>) -> Answer<v1::ListTenantsResponse> {
        let tenants = self.store().tenants().await.map_err(Refusal::from)?;
        Ok(Response::new(v1::ListTenantsResponse { tenants: tenants.into_iter().map(Into::into).collect() }))
    }

    async fn create_key(&self, request: Request<v1::CreateKeyRequest>) -> Answer<v1::CreatedKey> {
        let (by, ask) = (actor(&request)?, request.into_inner());
        let role = Role::decode(ask.role)?;
        let (tenant, life) = (tenant_of(role, &ask.tenant)?, span("seconds", ask.seconds)?);
        let minted = self.0.pepper.mint();
        let life = (!life.is_zero()).then_some(life);
        let new = NewKey { prefix: minted.prefix, hash: minted.hash, tenant, role, life };
        let key = self.store().create_key(&new, &by).await.map_err(Refusal::from)?;
        tracing::info!(prefix = key.prefix, %role, "key made");
        Ok(Response::new(v1::CreatedKey { key: Some(key.into()), token: minted.token }))
    }

    async fn list_keys(&self, request: Request<v1::ListKeysRequest>) -> Answer<v1::ListKeysResponse> {
        let tenant = request.into_inner().tenant;
        let tenant: Option<TenantId> =
            (!tenant.is_empty()).then(|| tenant.parse()).transpose().map_err(Refusal::from)?;
        let keys = self.store().keys(tenant.as_ref()).await.map_err(Refusal::from)?;
        Ok(Response::new(v1::ListKeysResponse { keys: keys.into_iter().map(Into::into).collect() }))
    }

    async fn rotate_key(&self, request: Request<v1::RotateKeyRequest>) -> Answer<v1::CreatedKey> {
        let (by, ask) = (actor(&request)?, request.into_inner());
        let overlap = span("overlap_seconds", ask.overlap_seconds)?;
        let minted = self.0.pepper.mint();
        let rotated = self.store().rotate_key(&ask.prefix, &minted.prefix, minted.hash, overlap, &by).await;
        let key = rotated.map_err(Refusal::from)?;
        tracing::info!(prefix = key.prefix, before = ask.prefix, "key rotated");
        Ok(Response::new(v1::CreatedKey { key: Some(key.into()), token: minted.token }))
    }

    async fn revoke_key(&self, request: Request<v1::RevokeKeyRequest>) -> Answer<v1::ApiKey> {
        let (by, prefix) = (actor(&request)?, request.into_inner().prefix);
        let key = self.store().revoke_key(&prefix, &by).await.map_err(Refusal::from)?;
        tracing::info!(prefix, "key revoked");
        Ok(Response::new(key.into()))
    }

    async fn replay_erasures(
        &self,
        _request: Request<v1::ReplayErasuresRequest>,
    ) -> Answer<v1::ReplayErasuresResponse> {
        let shared = Arc::clone(&self.0.shared);
        // As a forgetting: once begun it goes on.
        let replaying = tokio::spawn(async move { sweep::replay(&shared.store, &shared.bucket).await });
        let Replayed { buried, forgotten } =
            replaying.await.map_err(|error| Refusal::internal(error.to_string()))??;
        Ok(Response::new(v1::ReplayErasuresResponse { buried: buried as u64, forgotten: forgotten as u64 }))
    }
}

impl<S> AdminDesk<S> {
    fn store(&self) -> &S {
        &self.0.shared.store
    }
}

/// People have a tenant, machines and administrators none.
fn tenant_of(role: Role, tenant: &str) -> Result<Option<TenantId>, Refusal> {
    match (role, tenant) {
        (Role::Viewer | Role::Member, _) => Ok(Some(tenant.parse()?)),
        (Role::Worker | Role::Admin, "") => Ok(None),
        (Role::Worker | Role::Admin, _) => Err(Refusal::invalid(format!(
            "a key of role {role} is of no tenant, but {tenant:?} is named; leave it out"
        ))),
    }
}

fn span(field: &str, seconds: u64) -> Result<Duration, Refusal> {
    let span = Duration::from_secs(seconds);
    if span <= LONGEST {
        return Ok(span);
    }
    Err(Refusal::invalid(format!("{field} is {seconds}; accepted are 0 to {}", LONGEST.as_secs())))
}

fn weight(weight: u32) -> Result<u32, Refusal> {
    if (1..=HEAVIEST).contains(&weight) {
        return Ok(weight);
    }
    Err(Refusal::invalid(format!("weight is {weight}; accepted are 1 to {HEAVIEST}")))
}

fn bytes(bytes: u64) -> Result<u64, Refusal> {
    if i64::try_from(bytes).is_ok() {
        return Ok(bytes);
    }
    Err(Refusal::invalid(format!("bytes is {bytes}; accepted are 0 (no limit) to {}", i64::MAX)))
}

fn limits(wire: v1::Limits) -> Result<Limits, Refusal> {
    let v1::Limits { running_tasks, queued_jobs, photos, .. } = wire;
    Ok(Limits { running_tasks, queued_jobs, bytes: bytes(wire.bytes)?, photos })
}

impl From<Limits> for v1::Limits {
    fn from(limits: Limits) -> Self {
        let Limits { running_tasks, queued_jobs, bytes, photos } = limits;
        Self { running_tasks, queued_jobs, bytes, photos }
    }
}

impl From<Tenant> for v1::Tenant {
    fn from(tenant: Tenant) -> Self {
        let Tenant { id, created_at, terms: Terms { retention_days, weight, limits } } = tenant;
        let (created_at, limits) = (Some(created_at.into()), Some(limits.into()));
        Self { id: id.to_string(), created_at, retention_days, weight, limits }
    }
}

impl From<Key> for v1::ApiKey {
    fn from(key: Key) -> Self {
        Self {
            prefix: key.prefix,
            tenant: key.tenant.map(|tenant| tenant.to_string()).unwrap_or_default(),
            role: key.role.encode(),
            created_at: Some(key.created_at.into()),
            expires_at: key.expires_at.map(Into::into),
            revoked_at: key.revoked_at.map(Into::into),
        }
    }
}
