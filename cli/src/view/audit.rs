//! The audit log as it is printed.

use crate::output::columns;
use likeness_coordinator::audit::{Action, Entry};
use serde::Serialize;

/// An entry of the audit log.
#[derive(Debug, Serialize)]
pub struct EntryView {
    /// Its number.
    pub sequence: u64,
    /// When.
    pub at: String,
    /// Who.
    pub actor: String,
    /// Whose; empty where it is no tenant's.
    pub tenant: String,
    /// What.
    pub action: String,
    /// To what, as a keyed hash.
    pub target: String,
    /// Its own hash.
    pub hash: String,
}

impl From<&Entry> for EntryView {
    fn from(entry: &Entry) -> Self {
        let (seconds, millis) = (entry.at.div_euclid(1000), entry.at.rem_euclid(1000) as i32);
        let unknown = || format!("action {} of a newer release", entry.action);
        Self {
            sequence: entry.sequence,
            at: prost_types::Timestamp { seconds, nanos: millis * 1_000_000 }.to_string(),
            actor: entry.actor.clone(),
            tenant: entry.tenant.clone(),
            action: Action::of(entry.action).map_or_else(unknown, |action| action.to_string()),
            target: entry.target.to_string(),
            hash: entry.hash.to_string(),
        }
    }
}

/// Entries as a table.
#[must_use]
pub fn entry_list(entries: &[EntryView]) -> String {
    let row = |entry: &EntryView| {
        let tenant = if entry.tenant.is_empty() { "–" } else { &entry.tenant };
        let texts = [&entry.at, &entry.actor, tenant, &entry.action, &entry.target];
        let [at, actor, tenant, action, target] = texts.map(str::to_owned);
        [entry.sequence.to_string(), at, actor, tenant, action, target]
    };
    columns(&entries.iter().map(row).collect::<Vec<_>>())
}
