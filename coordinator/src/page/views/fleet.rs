//! Who works on what, and the tenants.

use std::collections::BTreeMap;

use likeness_proto::{TaskKind, TenantId};
use maud::{Markup, html};

use super::layout::{Frame, page};
use super::words::{bar, chip, count, grouped, moment, short, size, training};
use crate::store::{Hand, Held, Limits, ROSTER_LIMIT, Roster, Tenant};

/// The whole fleet, for administrators. Tasks of other tenants go by their job: subjects are their tenant's to see.
pub(in crate::page) fn fleet(frame: Frame<'_>, roster: &Roster) -> Markup {
    let mut of = BTreeMap::<_, Vec<&Held>>::new();
    for held in &roster.held {
        of.entry(held.holder).or_default().push(held);
    }
    let (none, own) = (Vec::new(), frame.access.and_then(|access| access.tenant.as_ref()));
    let body = html! {
        h1 { "Fleet" }
        div #fleet data-live {
            p.sum { (sum(roster)) }
            @if roster.workers.is_empty() { p.empty { "No worker has registered." } }
            ul.rows { @for hand in &roster.workers { li { (worker(hand, of.get(&hand.incarnation).unwrap_or(&none), own)) } } }
            @if roster.workers.len() >= ROSTER_LIMIT as usize { p.hint { "There may be more." } }
        }
    };
    page(&frame, body)
}

fn sum(roster: &Roster) -> String {
    let rate: f32 = roster.held.iter().filter_map(|held| Some(held.training?.steps_per_second)).sum();
    let learned = roster.held.iter().filter(|held| held.kind == TaskKind::Train).count();
    format!(
        "{}, {} under way: {} learned, {rate:.1} steps a second in all.",
        count(roster.workers.len() as u64, "worker"),
        count(roster.held.len() as u64, "task"),
        count(learned as u64, "subject"),
    )
}

fn worker(hand: &Hand, held: &[&Held], own: Option<&TenantId>) -> Markup {
    let kinds = hand.kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
    let (word, tone) = if held.is_empty() { ("Holds no task", "quiet") } else { ("Working", "busy") };
    html! {
        h2 { bdi { (hand.name) } }
        (chip(word, tone))
        p.meta { (kinds) @for model in &hand.models { " · " bdi { (model) } } " · " bdi { (hand.software) } }
        @if !held.is_empty() {
            ul.tasks { @for held in held { li { (task(held)) " · " (whose(held, own)) } } }
        }
    }
}

fn whose(held: &Held, own: Option<&TenantId>) -> Markup {
    let job = held.job.to_string();
    html! {
        span.meta {
            @if own == Some(&held.tenant) {
                a href={ "/jobs/" (job) } { bdi { (held.subject) } }
            } @else {
                (held.tenant) ", job " (short(&job))
            }
        }
    }
}

/// What a task is about, and how far it is.
fn task(held: &Held) -> String {
    let (drawn, shots) = held.drawn;
    match held.kind {
        TaskKind::Train => {
            held.training.as_ref().map_or_else(|| "Learning".into(), |at| format!("Learning: {}", training(at)))
        }
        TaskKind::Render => format!("Drawing: {drawn} of {shots}"),
        TaskKind::Assemble => "Making a contact sheet".into(),
        TaskKind::Preview => "Drawing a preview".into(),
    }
}

/// What is done of a tenant's own.
pub(in crate::page) fn work(frame: Frame<'_>, held: &[Held]) -> Markup {
    let body = html! {
        h1 { "Under way" }
        div #fleet data-live {
            @if held.is_empty() { p.empty { "Nothing of yours is being worked on." } }
            ul.rows {
                @for held in held {
                    li {
                        h2 { a href={ "/jobs/" (held.job) } { bdi { (held.subject) } } }
                        p.said { (task(held)) }
                        p.meta { "job " span.id { (short(&held.job.to_string())) } }
                        @if let Some(share) = share(held) { (bar(&format!("Progress of {}", held.subject), share)) }
                    }
                }
            }
        }
    };
    page(&frame, body)
}

fn share(held: &Held) -> Option<(u32, u32)> {
    let share = match held.kind {
        TaskKind::Train => held.training.map(|training| (training.step, training.max_steps)),
        TaskKind::Render => Some(held.drawn),
        TaskKind::Assemble | TaskKind::Preview => None,
    };
    share.filter(|(_, all)| *all > 0)
}

/// All tenants and what they are given.
pub(in crate::page) fn tenants(frame: Frame<'_>, tenants: &[Tenant]) -> Markup {
    let body = html! {
        h1 { "Tenants" }
        div.wide tabindex="0" role="region" aria-label="Tenants" {
            table {
                caption.sr { "Tenants and what each is given" }
                thead { tr {
                    @for name in ["Tenant", "Weight", "Running tasks", "Queued jobs", "Photos", "Bytes", "Kept for", "Since"] {
                        th scope="col" { (name) }
                    }
                } }
                tbody { @for tenant in tenants { (row(tenant)) } }
            }
        }
    };
    page(&frame, body)
}

fn row(tenant: &Tenant) -> Markup {
    let Limits { running_tasks, queued_jobs, bytes, photos } = tenant.terms.limits;
    let limit = |number: u32| if number == 0 { "no limit".to_owned() } else { grouped(u64::from(number)) };
    let kept = match tenant.terms.retention_days {
        0 => "ever".to_owned(),
        days => count(u64::from(days), "day"),
    };
    html! {
        tr {
            th scope="row" { (tenant.id) }
            td { (tenant.terms.weight) }
            td { (limit(running_tasks)) }
            td { (limit(queued_jobs)) }
            td { (limit(photos)) }
            td { (if bytes == 0 { "no limit".to_owned() } else { size(bytes) }) }
            td { (kept) }
            td { (moment(Some(&tenant.created_at.into()))) }
        }
    }
}
