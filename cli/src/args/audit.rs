//! Arguments of `audit`.

use clap::{Args, Subcommand};
use likeness_proto::{Sha256, SubjectName, TenantId};

/// What `audit` does.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Walk the whole log and say whether it is what was written
    Verify {
        /// Where it lies.
        #[command(flatten)]
        place: AuditPlace,
        /// A head noted earlier, from here or from a receipt: the log must still hold it
        #[arg(long, value_name = "HASH")]
        head: Option<Sha256>,
    },
    /// List entries
    List {
        /// Where it lies.
        #[command(flatten)]
        place: AuditPlace,
        /// Only this tenant's
        #[arg(long)]
        tenant: Option<TenantId>,
        /// Only what was done to this subject itself; its hash is looked for, under the pepper
        #[arg(long, requires = "tenant")]
        subject: Option<SubjectName>,
        /// Only the last of them, as many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
}

/// Where an audit log lies.
#[derive(Debug, Args)]
pub struct AuditPlace {
    /// Store that holds it, sqlite:FILE or postgres://… [default: likeness.db in the state folder]
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
}

impl AuditCommand {
    /// The flags that are settings.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let (Self::Verify { place, .. } | Self::List { place, .. }) = self;
        place.store.clone().map(|url| ("store", url)).into_iter().collect()
    }
}
