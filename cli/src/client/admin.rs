//! What administrators call.

use super::Client;
use super::connect::Admin;
use super::retry::Patience;
use crate::exit::Failure;
use likeness_proto::v1;
use tonic::{Response, Status};

impl Client {
    /// Makes a tenant.
    ///
    /// # Errors
    /// What the server refuses, or a server that does not answer; so all calls.
    pub async fn create_tenant(&self, ask: &v1::CreateTenantRequest) -> Result<v1::Tenant, Failure> {
        self.administer(async |stub| stub.create_tenant(ask.clone()).await).await
    }

    /// Changes what a tenant is given.
    ///
    /// # Errors
    /// As [`Client::create_tenant`].
    pub async fn update_tenant(&self, ask: &v1::UpdateTenantRequest) -> Result<v1::Tenant, Failure> {
        self.administer(async |stub| stub.update_tenant(ask.clone()).await).await
    }

    /// All tenants.
    ///
    /// # Errors
    /// As [`Client::create_tenant`].
    pub async fn tenants(&self) -> Result<Vec<v1::Tenant>, Failure> {
        Ok(self.administer(async |stub| stub.list_tenants(v1::ListTenantsRequest {}).await).await?.tenants)
    }

    /// Makes a key. When the answer is lost, a key that nobody knows is left: tried again, another is made.
    ///
    /// # Errors
    /// As [`Client::create_tenant`].
    pub async fn create_key(&self, ask: &v1::CreateKeyRequest) -> Result<v1::CreatedKey, Failure> {
        self.administer(async |stub| stub.create_key(ask.clone()).await).await
    }

    /// The keys of a tenant; of an empty one: all.
    ///
    /// # Errors
    /// As [`Client::create_tenant`].
    pub async fn keys(&self, tenant: &str) -> Result<Vec<v1::ApiKey>, Failure> {
        let ask = v1::ListKeysRequest { tenant: tenant.to_owned() };
        Ok(self.administer(async |stub| stub.list_keys(ask.clone()).await).await?.keys)
    }

    /// Gives a key a successor.
    ///
    /// # Errors
    /// As [`Client::create_tenant`].
    pub async fn rotate_key(&self, ask: &v1::RotateKeyRequest) -> Result<v1::CreatedKey, Failure> {
        self.administer(async |stub| stub.rotate_key(ask.clone()).await).await
    }

    /// Ends a key.
    ///
    /// # Errors
    /// As [`Client::create_tenant`].
    pub async fn revoke_key(&self, prefix: &str) -> Result<v1::ApiKey, Failure> {
        let ask = v1::RevokeKeyRequest { prefix: prefix.to_owned() };
        self.administer(async |stub| stub.revoke_key(ask.clone()).await).await
    }

    /// Forgets again what a restore of the store has brought back.
    ///
    /// # Errors
    /// As [`Client::create_tenant`].
    pub async fn replay_erasures(&self) -> Result<v1::ReplayErasuresResponse, Failure> {
        self.administer(async |stub| stub.replay_erasures(v1::ReplayErasuresRequest {}).await).await
    }

    async fn administer<T>(
        &self,
        attempt: impl AsyncFn(&mut Admin) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let mut patience = Patience::new(self.budget, &self.console);
        loop {
            let mut stub = self.target.administer()?;
            match attempt(&mut stub).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => patience.after(status.into(), &self.target).await?,
            }
        }
    }
}
