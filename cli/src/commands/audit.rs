//! The audit log, read from the store itself: whoever looks at it need not trust a coordinator.

use super::Context;
use crate::args::AuditCommand;
use crate::exit::{Exit, Failure};
use crate::settings::read_token;
use crate::state_dir::StateDir;
use crate::view::{EntryView, entry_list};
use likeness_coordinator::StoreAddress;
use likeness_coordinator::audit::{AuditLog, Blind, VerifyError};
use likeness_proto::{Sha256, SubjectName, TenantId};
use serde::Serialize;
use std::collections::VecDeque;

#[derive(Serialize)]
struct VerifiedView {
    entries: u64,
    head: String,
}

pub(super) async fn command(context: &Context, command: AuditCommand) -> Result<(), Failure> {
    let state = StateDir::at(&context.settings.state);
    let store = context.settings.store.clone().unwrap_or_else(|| StoreAddress::Sqlite(state.store()));
    let log = AuditLog::open(&store).await.map_err(|error| Failure::new(Exit::State, error.to_string()))?;
    match command {
        AuditCommand::Verify { head, .. } => verify(context, &log, head).await,
        AuditCommand::List { tenant, subject, limit, .. } => {
            let target = match (&tenant, &subject) {
                (Some(tenant), Some(subject)) => Some(hash_of(context, &state, tenant, subject)?),
                (None, _) | (_, None) => None,
            };
            list(context, &log, tenant.as_ref(), target, limit).await
        }
    }
}

async fn verify(context: &Context, log: &AuditLog, head: Option<Sha256>) -> Result<(), Failure> {
    let verified = log.verify(head).await.map_err(|error| match error {
        VerifyError::Broken(broken) => Failure::new(Exit::Audit, broken.to_string()),
        VerifyError::Unread(refusal) => refusal.into(),
    })?;
    let view = VerifiedView { entries: verified.entries, head: verified.head.to_string() };
    context.format.print(&view, |view| format!("ok, {} entries, head {}", view.entries, view.head))
}

fn hash_of(context: &Context, state: &StateDir, tenant: &TenantId, subject: &SubjectName) -> Result<Sha256, Failure> {
    let pepper = context.settings.pepper_file.clone().unwrap_or_else(|| state.pepper_file());
    Ok(Blind::new(&read_token(&pepper)?).subject(tenant, subject))
}

async fn list(
    context: &Context,
    log: &AuditLog,
    tenant: Option<&TenantId>,
    target: Option<Sha256>,
    limit: usize,
) -> Result<(), Failure> {
    let (mut newest, mut last) = (VecDeque::new(), 0);
    loop {
        let page = log.after(last).await?;
        let Some(entry) = page.last() else { break };
        last = entry.sequence;
        for entry in page {
            let fits = tenant.is_none_or(|tenant| entry.tenant == tenant.as_str())
                && target.is_none_or(|target| entry.target == target);
            if fits {
                newest.push_back(EntryView::from(&entry));
            }
            if newest.len() > limit {
                newest.pop_front();
            }
        }
    }
    context.format.print(&Vec::from(newest), |entries| entry_list(entries))
}
