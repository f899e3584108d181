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
        TenantCommand::Create { tenant, retention_days, terms } => {
            let limits = v1::Limits {
                running_tasks: terms.max_running_tasks.unwrap_or(0),
                queued_jobs: terms.max_queued_jobs.unwrap_or(0),
                bytes: terms.max_bytes.unwrap_or(0),
                photos: terms.max_photos.unwrap_or(0),
            };
            let (weight, limits) = (terms.weight.unwrap_or(0), Some(limits));
            let ask = v1::CreateTenantRequest { id: tenant, retention_days, weight, limits };
            print_tenant(context, &client.create_tenant(&ask).await?)
        }
        TenantCommand::Update { tenant, retention_days, terms } => {
            let ask = v1::UpdateTenantRequest {
                id: tenant,
                retention_days,
                weight: terms.weight,
                running_tasks: terms.max_running_tasks,
                queued_jobs: terms.max_queued_jobs,
                bytes: terms.max_bytes,
                photos: terms.max_photos,
            };
            print_tenant(context, &client.update_tenant(&ask).await?)
        }
        TenantCommand::List => {
            let tenants: Vec<_> = client.tenants().await?.iter().map(TenantView::from).collect();
            context.format.print(&tenants, |tenants| tenant_list(tenants))
        }
    }
}

fn print_tenant(context: &Context, tenant: &v1::Tenant) -> Result<(), Failure> {
    context.format.print(&TenantView::from(tenant), |tenant| tenant_list(std::slice::from_ref(tenant)))
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
