//! The page over a real listener, asked by a plain HTTP client that does nothing by itself.

mod browser;
mod doors;
mod escapes;
mod live;
mod pictures;

use likeness_proto::v1;
use likeness_proto::v1::admin_client::AdminClient;
use likeness_proto::{Bearer, Role};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::Options;
use crate::service::tests::served::*;
use browser::*;

/// A coordinator with a status page.
struct Site {
    served: Served,
    browser: Browser,
}

impl Site {
    async fn new() -> Self {
        Self::with(|options| options).await
    }

    async fn with(change: impl FnOnce(Options) -> Options) -> Self {
        let (page, address) = page(None).await;
        let served = Served::with(|options| change(Options { page: Some(page), ..options })).await;
        Self { served, browser: Browser::at(address) }
    }

    /// A browser that is signed in with a token.
    async fn signed_in(&self, token: &str) -> Browser {
        let answer = self.browser.sign_in(token).await;
        assert_eq!(answer.status, 303, "{}", answer.body);
        self.browser.with(&answer.cookie())
    }

    /// With the one token of the embedded service.
    async fn owner(&self) -> Browser {
        self.signed_in("right").await
    }

    fn admin(&self) -> AdminClient<InterceptedService<Channel, Bearer>> {
        AdminClient::with_interceptor(self.served.channel.clone(), Bearer::new(&secret("right")))
    }

    /// A fresh key; of the tenant, which is made, if its role is a person's.
    async fn key(&self, tenant: &str, role: Role) -> v1::CreatedKey {
        let mut admin = self.admin();
        admin.create_tenant(v1::CreateTenantRequest { id: tenant.into(), ..Default::default() }).await.unwrap();
        let tenant = if matches!(role, Role::Viewer | Role::Member) { tenant } else { "" };
        let ask = v1::CreateKeyRequest { tenant: tenant.into(), role: role.encode(), seconds: 0 };
        admin.create_key(ask).await.unwrap().into_inner()
    }
}
