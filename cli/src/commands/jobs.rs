//! Commands about jobs: watch, list, show, cancel.

use super::Context;
use crate::client::{Client, verdict, watch};
use crate::exit::Failure;
use crate::output::Format;
use crate::progress::JobProgress;
use crate::view::{JobView, job_list, job_page};
use likeness_proto::v1;

/// Follows a job on standard error to its end; `--json` tells every change on standard output.
pub(super) async fn watch_job(context: &Context, id: &str) -> Result<(), Failure> {
    let job = follow(context, &context.client()?, id, context.format).await?;
    if context.format == Format::Text {
        context.format.print(&JobView::from(&job), job_page)?;
    }
    verdict(&job)
}

/// Follows a job to its end; changes go to standard output as `changes` says.
pub(super) async fn follow(context: &Context, client: &Client, id: &str, changes: Format) -> Result<v1::Job, Failure> {
    let mut progress = JobProgress::new(&context.console);
    watch(client, id, |job| {
        progress.show(job);
        changes.print_line(&JobView::from(job))
    })
    .await
}

pub(super) async fn list(context: &Context, limit: u32) -> Result<(), Failure> {
    let jobs: Vec<_> = context.client()?.jobs(limit).await?.iter().map(JobView::from).collect();
    context.format.print(&jobs, |jobs| job_list(jobs))
}

pub(super) async fn show(context: &Context, id: &str) -> Result<(), Failure> {
    let job = context.client()?.job(id).await?;
    context.format.print(&JobView::from(&job), job_page)
}

pub(super) async fn cancel(context: &Context, id: &str) -> Result<(), Failure> {
    let job = context.client()?.cancel(id).await?;
    context.format.print(&JobView::from(&job), job_page)
}
