//! Spans of a pack. A step is of many subjects, so it is a trace of its own, which names none of them; in each subject's trace
//! stands that it took part, with a link there. So no trace holds an id of another's.

use likeness_telemetry::{span, trace::link};
use tracing::Span;

/// One of so many steps of a subject is told of: each of them would be most of what a collector hears.
pub(crate) const SAMPLED: u32 = 50;

/// A step of the pack, for `members`: their spans and steps. None of those that are told of: no span.
pub(crate) fn step(members: &[(Span, u32)], samples: usize) -> (Span, Vec<Span>) {
    let told = members.iter().filter(|(_, step)| step.is_multiple_of(SAMPLED));
    let told: Vec<_> = told.filter(|(span, _)| !span.is_none()).collect();
    if told.is_empty() {
        return (Span::none(), Vec::new());
    }
    let shared =
        span!(parent: None, "pack step", likeness.pack.subjects = members.len(), likeness.pack.samples = samples);
    let part = |(own, step): &(Span, u32)| {
        let part = span!(parent: own, "step", likeness.step = step);
        link(&part, &shared);
        part
    };
    let parts = told.into_iter().map(part).collect();
    (shared, parts)
}

/// A subject's evaluation, which is measured with those of others.
pub(crate) fn evaluation(own: &Span, step: u32) -> Span {
    if own.is_none() { Span::none() } else { span!(parent: own, "evaluate", likeness.step = step) }
}
