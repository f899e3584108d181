//! Server-sent events. They carry no data: a change tells the browser to ask for its page again, by which it gets what it may see then.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::future::{BoxFuture, select_all};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use likeness_proto::v1::Job;
use likeness_proto::{JobId, Refusal, TenantId};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::lifecycle::JobState;
use crate::service::{Shared, watch};
use crate::store::{JobChanges, Store};

/// How often the newest job of a list is looked at.
const NEWS: Duration = Duration::from_secs(5);
/// How often the fleet is worth another look.
const FLEET: Duration = Duration::from_secs(3);
/// Between two changes that a browser is told.
const PACE: Duration = Duration::from_secs(1);
/// Silence that tells proxies and browsers that the stream goes on.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a browser is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// The page is not what it was.
    Change,
    /// It will not change again.
    Over,
}

pub(super) type Beats = BoxStream<'static, Beat>;

/// Changes of a job after `revision`.
pub(super) async fn of_job<S: Store>(
    shared: &Arc<Shared<S>>,
    tenant: &TenantId,
    id: JobId,
    revision: u64,
) -> Result<Beats, Refusal> {
    let jobs = watch(Arc::clone(shared), tenant.clone(), id).await?;
    let beats = move |job: Job| {
        let over = JobState::decode(job.state).is_none_or(JobState::ended);
        let beats = [(job.revision > revision).then_some(Beat::Change), over.then_some(Beat::Over)];
        futures::stream::iter(beats.into_iter().flatten())
    };
    // After an error the stream just ends, and the browser comes again.
    Ok(jobs.filter_map(|job| ready(job.ok())).flat_map(beats).boxed())
}

/// Changes of the newest jobs of a tenant, `limit` of them.
pub(super) fn of_jobs<S: Store>(shared: &Arc<Shared<S>>, tenant: &TenantId, limit: u32) -> Beats {
    let list = List { shared: Arc::clone(shared), tenant: tenant.clone(), limit, newest: None, open: Vec::new() };
    let mut looks = interval(NEWS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    futures::stream::unfold((list, looks), async |(mut list, mut looks)| {
        loop {
            let changed = tokio::select! {
                biased;
                () = any(&mut list.open) => true,
                _tick = looks.tick() => list.has_news().await.ok()?,
            };
            if changed {
                return Some((Beat::Change, (list, looks)));
            }
        }
    })
    .boxed()
}

/// Waits until one of the jobs may have changed.
async fn any(jobs: &mut [JobChanges]) {
    match jobs {
        [] => std::future::pending().await,
        jobs => drop(select_all(jobs.iter_mut().map(|job| Box::pin(job.changed()))).await),
    }
}

/// The newest jobs of a tenant, as far as changes of them are told.
struct List<S> {
    shared: Arc<Shared<S>>,
    tenant: TenantId,
    limit: u32,
    newest: Option<String>,
    /// Those that had not ended when it was looked at.
    open: Vec<JobChanges>,
}

impl<S: Store> List<S> {
    /// Whether there is a job that was not there. Then its browser asks for the page, which shows what changed before this listened.
    async fn has_news(&mut self) -> Result<bool, Refusal> {
        let newest = self.shared.store.jobs(&self.tenant, 1).await?.pop().map(|job| job.id);
        if newest == self.newest {
            return Ok(false);
        }
        let jobs = self.shared.store.jobs(&self.tenant, self.limit).await?;
        let open = jobs.iter().filter(|job| JobState::decode(job.state).is_some_and(|state| !state.ended()));
        let signals = self.shared.store.signals();
        self.open = open.filter_map(|job| Some(signals.job(&self.tenant, job.id.parse().ok()?))).collect();
        self.newest = newest;
        Ok(true)
    }
}

/// The fleet is worth another look every now and then.
pub(super) fn of_fleet() -> Beats {
    let ticks = futures::stream::unfold((), async |()| {
        sleep(FLEET).await;
        Some((Beat::Change, ()))
    });
    ticks.boxed()
}

/// Sends the beats until `end` or `stop`.
pub(super) fn stream(beats: Beats, end: BoxFuture<'static, Status>, stop: CancellationToken) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        // Proxies of the nginx kind would wait for more.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(lines(beats, end, stop))).into_response()
}

struct Flow {
    beats: Beats,
    end: BoxFuture<'static, Status>,
    stop: CancellationToken,
    /// What is to be sent before anything else.
    due: VecDeque<&'static str>,
    /// No change is told before.
    next: Instant,
    over: bool,
}

fn lines(
    beats: Beats,
    end: BoxFuture<'static, Status>,
    stop: CancellationToken,
) -> impl Stream<Item = Result<&'static str, Infallible>> {
    let flow = Flow { beats, end, stop, due: VecDeque::from(["retry: 3000\n\n"]), next: Instant::now(), over: false };
    futures::stream::unfold(flow, async |mut flow| {
        let line = flow.line().await?;
        Some((Ok(line), flow))
    })
}

impl Flow {
    async fn line(&mut self) -> Option<&'static str> {
        if let Some(due) = self.due.pop_front() {
            return Some(due);
        }
        if self.over {
            return None;
        }
        let Self { beats, end, stop, next, .. } = self;
        let beat = async {
            sleep_until(*next).await;
            beats.next().await
        };
        tokio::select! {
            biased;
            _status = end => None,
            () = stop.cancelled() => None,
            beat = beat => match beat? {
                Beat::Change => {
                    *next = Instant::now() + PACE;
                    Some("event: change\ndata: -\n\n")
                }
                Beat::Over => {
                    self.over = true;
                    Some("event: over\ndata: -\n\n")
                }
            },
            () = sleep(KEEP_ALIVE) => Some(":\n\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(beats: Vec<Beat>, end: BoxFuture<'static, Status>) -> impl Stream<Item = &'static str> {
        let beats = futures::stream::iter(beats).chain(futures::stream::pending()).boxed();
        lines(beats, end, CancellationToken::new()).map(|Ok(line)| line)
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_paced_and_the_last_word_ends_the_stream() {
        let began = Instant::now();
        let lines: Vec<_> =
            told(vec![Beat::Change, Beat::Change, Beat::Over], Box::pin(std::future::pending())).collect().await;
        let change = "event: change\ndata: -\n\n";
        assert_eq!(lines, ["retry: 3000\n\n", change, change, "event: over\ndata: -\n\n"]);
        assert_eq!(began.elapsed(), 2 * PACE);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_kept_alive_until_the_credential_lapses() {
        let lapse = async {
            sleep(Duration::from_secs(40)).await;
            Status::unauthenticated("revoked")
        };
        let lines: Vec<_> = told(vec![], Box::pin(lapse)).collect().await;
        assert_eq!(lines, ["retry: 3000\n\n", ":\n\n", ":\n\n"]);
    }
}
