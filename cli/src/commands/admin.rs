//! Commands of administrators: tenants and API keys.

use super::Context;
use crate::args::{AdminCommand, KeyCommand, TenantCommand};
use crate::exit::Failure;
use crate::view::{KeyView, ReplayView, TenantView, created_key, key_list, tenant_list};
use likeness_proto::v1;

const DAY: u64 = 24 * 3600;
const HOUR: u64 = 3600;

pub(super) async fn command(context: &Context, command: AdminCommand) -> Result<(), Failure> {
    match command {
        AdminCommand::Tenant { command } => tenant(context, command).await,
        AdminCommand::Key { command } => key(context, command).await,
        AdminCommand::ReplayErasures => {
            let replayed = ReplayView::from(&context.client()?.replay_erasures().await?);
            context.format.print(&replayed, |replayed| {
                format!("{} subjects were forgotten so far, {} of them again now", replayed.buried, replayed.forgotten)
            })
        }
    }
}

async fn tenant(context: &Context, command: TenantCommand) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        TenantCommand::Create { tenant, retention_days } => {
            let made = client.create_tenant(&v1::CreateTenantRequest { id: tenant, retention_days }).await?;
            context.format.print(&TenantView::from(&made), |tenant| format!("tenant {}", tenant.id))
        }
        TenantCommand::List => {
            let tenants: Vec<_> = client.tenants().await?.iter().map(TenantView::from).collect();
            context.format.print(&tenants, |tenants| tenant_list(tenants))
        }
    }
}

async fn key(context: &Context, command: KeyCommand) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        KeyCommand::Create { role, tenant, days } => {
            let tenant = tenant.unwrap_or_default();
            let ask = v1::CreateKeyRequest { tenant, role: role.encode(), seconds: days.unwrap_or(0) * DAY };
            context.format.print(&KeyView::created(&client.create_key(&ask).await?), created_key)
        }
        KeyCommand::List { tenant } => {
            let keys: Vec<_> = client.keys(&tenant.unwrap_or_default()).await?.iter().map(KeyView::from).collect();
            context.format.print(&keys, |keys| key_list(keys))
        }
        KeyCommand::Rotate { prefix, overlap_hours } => {
            let ask = v1::RotateKeyRequest { prefix, overlap_seconds: overlap_hours * HOUR };
            context.format.print(&KeyView::created(&client.rotate_key(&ask).await?), created_key)
        }
        KeyCommand::Revoke { prefix } => {
            let key = client.revoke_key(&prefix).await?;
            context.format.print(&KeyView::from(&key), |key| format!("key {} opens nothing any more", key.prefix))
        }
    }
}
