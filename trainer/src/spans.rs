//! Spans of a pack. A step is of many subjects, so it is a trace of its own, which names none of them; in each subject's trace
//! stands that it took part, with a link there. So no trace holds an id of another's.

use likeness_telemetry::{
    span,
    trace::{Parent, link},
};
use tracing::Span;

/// One of so many steps of a subject is told of: each of them would be most of what a collector hears.
pub(crate) const SAMPLED: u32 = 50;

/// A step of the pack, for `members`: what their spans are children of, and their steps. It is a part of `whole`, if that is told of. None
/// of the members' steps that are told of: no span.
pub(crate) fn step(whole: &Span, members: &[(Option<Parent>, u32)], samples: usize) -> (Span, Vec<Span>) {
    let told = members.iter().filter(|(_, step)| step.is_multiple_of(SAMPLED));
    let told: Vec<_> = told.filter_map(|(own, step)| Some((own.as_ref()?, step))).collect();
    if told.is_empty() {
        return (Span::none(), Vec::new());
    }
    let shared =
        span!(parent: whole, "pack step", likeness.pack.subjects = members.len(), likeness.pack.samples = samples);
    let part = |(own, step): (&Parent, &u32)| {
        let part = span!(parent: None, "step", likeness.step = step);
        own.adopt(&part);
        link(&part, &shared);
        part
    };
    let parts = told.into_iter().map(part).collect();
    (shared, parts)
}

/// A subject's evaluation, which is measured with those of others.
pub(crate) fn evaluation(own: Option<&Parent>, step: u32) -> Span {
    let Some(own) = own else { return Span::none() };
    let span = span!(parent: None, "evaluate", likeness.step = step);
    own.adopt(&span);
    span
}

/// The time in which ranks go on by themselves with `members`, as its leader sees it. Nobody of these is traced: no span.
pub(crate) fn stretch<'a>(mut members: impl ExactSizeIterator<Item = Option<&'a Parent>>, ranks: usize) -> Span {
    let subjects = members.len();
    match members.any(|member| member.is_some()) {
        true => span!(parent: None, "pack stretch", likeness.pack.subjects = subjects, likeness.pack.ranks = ranks),
        false => Span::none(),
    }
}

/// What a rank does of a step or a stretch of the pack, if that is told of.
pub(crate) fn share(whole: Option<&Parent>, rank: usize, subjects: usize) -> Span {
    let Some(whole) = whole else { return Span::none() };
    let span = span!(parent: None, "share", likeness.rank = rank, likeness.pack.subjects = subjects);
    whole.adopt(&span);
    span
}
