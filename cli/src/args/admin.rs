//! Arguments of `admin`.

use clap::{Args, Subcommand};
use likeness_proto::Role;

/// What `admin` does.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Tenants: each sees nothing of the others
    Tenant {
        /// What to do.
        #[command(subcommand)]
        command: TenantCommand,
    },
    /// API keys: what programs present as their token
    Key {
        /// What to do.
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Forget again what a restored backup has brought back; coordinators do so whenever they start
    ReplayErasures,
}

/// What `admin tenant` does.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Make a tenant; one that is there already stays as it is
    Create {
        /// Its id: a–z, 0–9, `-`, `_`, `.`
        tenant: String,
        /// Forget subjects after this many days without a job; 0: never
        #[arg(long, value_name = "N", default_value_t = 0)]
        retention_days: u32,
        /// Its share and limits.
        #[command(flatten)]
        terms: TermsArgs,
    },
    /// Change what a tenant is given; what is not named stays as it is
    Update {
        /// Its id
        tenant: String,
        /// Forget subjects after this many days without a job; 0: never
        #[arg(long, value_name = "N")]
        retention_days: Option<u32>,
        /// Its share and limits.
        #[command(flatten)]
        terms: TermsArgs,
    },
    /// List tenants
    List,
}

/// A tenant's share of the fleet, and its limits.
#[derive(Clone, Copy, Debug, Args)]
pub struct TermsArgs {
    /// Share of the fleet against other tenants that wait too, 1 to 1000 [default: 1]
    #[arg(long, value_name = "N")]
    pub weight: Option<u32>,
    /// Tasks that run at a time, at most; 0: no limit
    #[arg(long, value_name = "N")]
    pub max_running_tasks: Option<u32>,
    /// Jobs that have not ended, at most; 0: no limit
    #[arg(long, value_name = "N")]
    pub max_queued_jobs: Option<u32>,
    /// Bytes of all that it has stored, at most; 0: no limit
    #[arg(long, value_name = "N")]
    pub max_bytes: Option<u64>,
    /// Photos of all its subjects, at most; 0: no limit
    #[arg(long, value_name = "N")]
    pub max_photos: Option<u32>,
}

/// What `admin key` does.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it, this once
    Create {
        /// viewer, member, worker or admin
        #[arg(long, value_parser = role)]
        role: Role,
        /// Whose it is; for viewers and members
        #[arg(long)]
        tenant: Option<String>,
        /// Days after which it expires [default: never]
        #[arg(long, value_name = "N")]
        days: Option<u64>,
    },
    /// List keys, without their secrets
    List {
        /// Only this tenant's
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Make a key that opens what another does, and let that one expire
    Rotate {
        /// The other key, up to its dot
        prefix: String,
        /// Hours for which both open the same
        #[arg(long, value_name = "N", default_value_t = 24)]
        overlap_hours: u64,
    },
    /// End a key at once
    Revoke {
        /// The key, up to its dot
        prefix: String,
    },
}

fn role(text: &str) -> Result<Role, String> {
    text.parse().map_err(|error: likeness_proto::UnknownName| error.to_string())
}
