//! Commands about the program itself: settings, version, exit codes.

use super::Context;
use crate::build::Build;
use crate::exit::{Exit, Failure, table};
use crate::output::columns;
use crate::settings::Row;
use serde::Serialize;

#[derive(Serialize)]
struct SettingView<'a> {
    key: &'static str,
    value: Option<&'a str>,
    origin: String,
    help: &'static str,
}

pub(crate) fn config<'a>(context: &'a Context) -> Result<(), Failure> {
    let row = |row: &'a Row| SettingView {
        key: row.key.name,
        value: row.value.as_deref(),
        origin: row.origin.to_string(),
        help: row.key.help,
    };
    let settings: Vec<_> = context.rows.iter().map(row).collect();
    context.format.print(&settings, |settings| {
        let rows = settings.iter().map(|view| [view.key, view.value.unwrap_or("-"), &view.origin].map(str::to_owned));
        columns(&rows.collect::<Vec<_>>())
    })
}

pub(super) fn version(context: &Context) -> Result<(), Failure> {
    context.format.print(&Build::of_this_program(), |build| match build.commit {
        Some(commit) => format!("likeness {} ({commit})", build.version),
        None => format!("likeness {}", build.version),
    })
}

#[derive(Serialize)]
struct ExitView {
    code: u8,
    meaning: &'static str,
}

pub(super) fn exit_codes(context: &Context) -> Result<(), Failure> {
    let views: Vec<_> = Exit::all().map(|exit| ExitView { code: exit.code(), meaning: exit.meaning() }).collect();
    context.format.print(&views, |_| table())
}
