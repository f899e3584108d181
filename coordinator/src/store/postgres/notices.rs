//! Telling other coordinators what has changed, by NOTIFY, and hearing it from them, by LISTEN.
//!
//! A NOTIFY within a transaction makes every commit wait for every other. So notices are sent afterwards, many as one, on a
//! connection of their own; one that is lost costs a watcher as long as it takes until it looks by itself.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use likeness_proto::{JobId, TenantId};
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::open::aside;
use crate::store::signals::{Others, Signal, Signals};

const CHANNEL: &str = "likeness";
/// Notices that wait to be sent.
const OUTBOX: usize = 4096;
/// Ids in a notice: the server takes 8,000 bytes.
const MOST: usize = 200;
/// Changes within this time are told together.
const GATHER: Duration = Duration::from_millis(5);
/// How often to look at the store unasked.
const POLL: Duration = Duration::from_secs(3);
/// Jobs of a statement that looks.
const LOOKED_AT: usize = 1000;
/// How long to wait before the server is asked again that was away.
const AWAY: Duration = Duration::from_secs(1);

/// Signals that other coordinators on the database hear, too. Ends when they are dropped.
pub(super) fn exchange(pool: &PgPool) -> Arc<Signals> {
    let (outbox, notices) = mpsc::channel(OUTBOX);
    let signals = Arc::new(Signals::new(Some(Others { outbox, poll: POLL })));
    let own = Uuid::new_v4();
    tokio::spawn(tell(pool.clone(), own, notices));
    tokio::spawn(listen(pool.clone(), own, Arc::downgrade(&signals)));
    tokio::spawn(look(pool.clone(), Arc::downgrade(&signals)));
    signals
}

async fn tell(pool: PgPool, own: Uuid, mut notices: mpsc::Receiver<Signal>) {
    let sender = aside(&pool);
    let mut batch = Vec::with_capacity(MOST);
    while notices.recv_many(&mut batch, MOST).await > 0 {
        tokio::time::sleep(GATHER).await;
        while batch.len() < MOST
            && let Ok(signal) = notices.try_recv()
        {
            batch.push(signal);
        }
        let notice = encode(own, &batch);
        batch.clear();
        let told = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(notice).execute(&sender).await;
        if let Err(error) = told {
            tracing::warn!(%error, "other coordinators not told, they will look by themselves");
        }
        if pool.is_closed() {
            break;
        }
    }
    sender.close().await;
}

async fn listen(pool: PgPool, own: Uuid, signals: Weak<Signals>) {
    while signals.strong_count() > 0 && !pool.is_closed() {
        if let Err(error) = listen_once(&pool, own, &signals).await {
            tracing::warn!(%error, "other coordinators not heard, will be tried again");
            tokio::time::sleep(AWAY).await;
        }
    }
}

async fn listen_once(pool: &PgPool, own: Uuid, signals: &Weak<Signals>) -> Result<(), sqlx::Error> {
    let aside = aside(pool);
    let mut listener = PgListener::connect_with(&aside).await?;
    listener.listen(CHANNEL).await?;
    if let Some(signals) = signals.upgrade() {
        signals.hear_all();
    }
    loop {
        let heard = tokio::select! {
            heard = listener.try_recv() => heard?,
            () = pool.close_event() => return Ok(()),
        };
        let Some(signals) = signals.upgrade() else { return Ok(()) };
        match heard {
            Some(notice) => decode(own, notice.payload()).into_iter().for_each(|signal| signals.hear(signal)),
            // The connection was lost, and with it what was told meanwhile.
            None => signals.hear_all(),
        }
    }
}

/// Finds changes that nobody told of, as when a coordinator dies between its commit and its notice.
async fn look(pool: PgPool, signals: Weak<Signals>) {
    let (reader, mut seen) = (aside(&pool), HashMap::new());
    while !pool.is_closed() {
        tokio::time::sleep(POLL).await;
        let Some(signals) = signals.upgrade() else { break };
        match revisions(&reader, &signals.watched()).await {
            Ok(now) => {
                let news = now.iter().filter(|(job, revision)| seen.get(*job) != Some(*revision));
                news.for_each(|(job, _revision)| signals.hear(Signal::Job(*job)));
                seen = now;
            }
            Err(error) => tracing::warn!(%error, "watched jobs not looked at, will be tried again"),
        }
    }
    reader.close().await;
}

/// The revisions of those jobs that there are.
async fn revisions(reader: &PgPool, jobs: &[(TenantId, JobId)]) -> Result<HashMap<JobId, i64>, sqlx::Error> {
    let mut revisions = HashMap::with_capacity(jobs.len());
    for some in jobs.chunks(LOOKED_AT) {
        let (tenants, ids): (Vec<_>, Vec<_>) = some.iter().map(|(of, job)| (of.to_string(), job.to_string())).unzip();
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT id, revision FROM jobs JOIN unnest($1::text[], $2::text[]) AS watched (tenant, id) USING (tenant, id)",
        )
        .bind(tenants)
        .bind(ids)
        .fetch_all(reader)
        .await?;
        revisions.extend(rows.into_iter().filter_map(|(id, revision)| Some((id.parse().ok()?, revision))));
    }
    Ok(revisions)
}

/// `SENDER READY? JOB…`
fn encode(own: Uuid, signals: &[Signal]) -> String {
    let mut words = vec![own.to_string()];
    for signal in signals {
        let word = match signal {
            Signal::Ready => "ready".to_owned(),
            Signal::Job(job) => job.to_string(),
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(" ")
}

/// What another coordinator told. Words that mean nothing here are of a newer release.
fn decode(own: Uuid, notice: &str) -> Vec<Signal> {
    let mut words = notice.split(' ');
    if words.next() == Some(own.to_string().as_str()) {
        return Vec::new();
    }
    let signal = |word: &str| match word {
        "ready" => Some(Signal::Ready),
        job => job.parse().ok().map(Signal::Job),
    };
    words.filter_map(signal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_says_each_change_once_and_its_sender_does_not_hear_it() {
        let (job, own) = (JobId::new(), Uuid::new_v4());
        let notice = encode(own, &[Signal::Job(job), Signal::Ready, Signal::Job(job)]);
        assert_eq!(decode(Uuid::new_v4(), &notice), [Signal::Job(job), Signal::Ready]);
        assert!(decode(own, &notice).is_empty());
        assert!(encode(own, &vec![Signal::Job(job); MOST]).len() < 100, "said once");
        let ids: Vec<_> = (0..MOST).map(|_| Signal::Job(JobId::new())).collect();
        assert!(encode(own, &ids).len() < 8000, "the server takes it");
    }
}
