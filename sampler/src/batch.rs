//! The pictures of many tasks, which share their steps.

use std::collections::BTreeSet;
use std::iter::{Enumerate, Peekable};
use std::ops::AddAssign;
use std::sync::Arc;
use std::vec::IntoIter;

use likeness_diffusion::{BaseModel, Context, Embedding, Look, Picture, Prompt, RenderError, RgbPixels, Shot, render};
use likeness_proto::{ErrorCode, Sha256};
use likeness_telemetry::{metrics::Stopwatch, span};
use likeness_worker::WorkError;
use tokio::sync::mpsc::UnboundedSender;
use tracing::Span;

use crate::{
    cache::Cache,
    failure::{failed, refused},
    metrics::METRICS,
};

/// Contexts kept, keys and values of 77 tokens each: 123 MB in SD 1.5.
const CONTEXTS: usize = 16;

/// One task's pictures.
pub(crate) struct Order {
    pub(crate) subject: Subject,
    pub(crate) look: Look,
    pub(crate) shots: Vec<Shot>,
    /// Asked before each step whether to go on.
    pub(crate) wanted: Box<dyn Fn() -> bool + Send>,
    /// What spans about its pictures are children of.
    pub(crate) span: Span,
    /// Gets every picture with its shot's place, or why there are no more. An order that nobody listens to is dropped.
    pub(crate) drawn: UnboundedSender<Drawn>,
}

/// A picture and the place of its shot in the order.
pub(crate) type Drawn = Result<(usize, RgbPixels), WorkError>;

/// Whose rows the prompts' slots name.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// Of the embedding's file.
    pub(crate) digest: Sha256,
    pub(crate) embedding: Arc<Embedding>,
}

/// Pictures under way. One may begin or end between any two steps and notices nothing of the others: its pixels are those that it
/// has alone.
pub(crate) struct Batch {
    contexts: Contexts,
    /// Pixels under way at once, unless a single picture has more.
    pixels: usize,
    /// In the order in which they came.
    members: Vec<Member>,
}

struct Member {
    order: Order,
    waiting: Peekable<Enumerate<IntoIter<Shot>>>,
    under_way: Vec<(usize, Picture, Span)>,
}

impl Batch {
    /// Without a picture. Those of at most `pixels` pixels are under way at once.
    pub(crate) fn new(model: Arc<BaseModel>, pixels: usize) -> Self {
        Self { contexts: Contexts::new(model), pixels, members: Vec::new() }
    }

    /// Takes part from the next step on.
    pub(crate) fn join(&mut self, mut order: Order) {
        let waiting = std::mem::take(&mut order.shots).into_iter().enumerate().peekable();
        self.members.push(Member { order, waiting, under_way: Vec::new() });
    }

    /// Whether there is nothing to draw.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// One step of every picture under way, and the next ones begun where there is room; hands out those that it finishes.
    pub(crate) fn step(&mut self) -> Step {
        self.members.retain(|member| !member.order.drawn.is_closed());
        each(&mut self.members, |member| if (member.order.wanted)() { Ok(()) } else { Err(WorkError::Stopped) });
        self.begin();
        METRICS.under_way.record(self.under_way() as f64, &[]);
        let began = Stopwatch::start();
        let step = self.advance();
        if step.pictures > 0 {
            began.stop(&METRICS.step, &[]);
        }
        self.finish();
        METRICS.under_way.record(self.under_way() as f64, &[]);
        step
    }

    fn under_way(&self) -> usize {
        self.members.iter().map(|member| member.under_way.len()).sum()
    }

    /// Who came first begins first: a large picture is not kept waiting by small ones that would still fit.
    fn begin(&mut self) {
        let Self { contexts, pixels, members } = self;
        let under_way: usize = members.iter().map(|member| member.under_way.len() * member.pixels()).sum();
        let (mut free, mut idle) = (pixels.saturating_sub(under_way), under_way == 0);
        each(members, |member| {
            let pixels = member.pixels();
            while let Some((place, shot)) = member.waiting.next_if(|_| idle || pixels <= free) {
                let read = |prompt: &Prompt| contexts.get(&member.order.subject, prompt);
                let picture = Picture::begin(&contexts.model, &shot, &member.order.look, read).map_err(undrawn)?;
                member.under_way.push((place, picture, span(&member.order.span, "denoise", place)));
                (free, idle) = (free.saturating_sub(pixels), false);
            }
            if member.waiting.peek().is_some() {
                free = 0;
            }
            Ok(())
        });
    }

    /// One pass for the pictures of each size. What makes a picture impossible is found when it begins; a pass that fails all the
    /// same is a fault of this node, and its members may be tried again.
    fn advance(&mut self) -> Step {
        let drawing = self.members.iter().filter(|member| !member.under_way.is_empty());
        let sizes: BTreeSet<_> = drawing.map(Member::size).collect();
        let mut step = Step { passes: sizes.len(), pictures: 0 };
        for size in sizes {
            let fitting = self.members.iter_mut().filter(|member| member.size() == size);
            let mut pass: Vec<&mut Picture> =
                fitting.flat_map(|member| member.under_way.iter_mut().map(|(_, picture, _)| picture)).collect();
            step.pictures += pass.len();
            if let Err(error) = render::step(&self.contexts.model, &mut pass) {
                let error = failed(error);
                let fails = |member: &Member| member.size() == size && !member.under_way.is_empty();
                each(&mut self.members, |member| if fails(member) { Err(error.clone()) } else { Ok(()) });
            }
        }
        step
    }

    /// Decodes one picture at a time.
    fn finish(&mut self) {
        let model = &self.contexts.model;
        each(&mut self.members, |member| {
            let (done, under_way): (Vec<_>, Vec<_>) =
                std::mem::take(&mut member.under_way).into_iter().partition(|(_, picture, _)| picture.is_done());
            member.under_way = under_way;
            for (place, picture, denoised) in done {
                drop(denoised);
                let (began, decode) = (Stopwatch::start(), span(&member.order.span, "decode", place));
                let pixels = decode.in_scope(|| picture.pixels(model)).map_err(failed)?;
                began.stop(&METRICS.decode, &[]);
                let pixels = pixels.ok_or_else(|| undrawn(RenderError::NotFinite { shot: place }))?;
                METRICS.images.add(1, &[]);
                let _ = member.order.drawn.send(Ok((place, pixels))); // nobody listens where the attempt was dropped
            }
            Ok(())
        });
        self.members.retain_mut(|member| member.waiting.peek().is_some() || !member.under_way.is_empty());
    }
}

/// What a step was, or many of them were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Passes through the UNet.
    pub(crate) passes: usize,
    /// Steps of single pictures.
    pub(crate) pictures: usize,
}

impl AddAssign for Step {
    fn add_assign(&mut self, more: Self) {
        self.passes += more.passes;
        self.pictures += more.pictures;
    }
}

/// Does something with every member, in order; those that it fails are told why, and leave with all their pictures.
fn each(members: &mut Vec<Member>, mut act: impl FnMut(&mut Member) -> Result<(), WorkError>) {
    members.retain_mut(|member| match act(member) {
        Ok(()) => true,
        Err(error) => {
            let _ = member.order.drawn.send(Err(error));
            false
        }
    });
}

impl Member {
    /// Width and height of its pictures.
    fn size(&self) -> (usize, usize) {
        (self.order.look.width, self.order.look.height)
    }

    fn pixels(&self) -> usize {
        self.size().0 * self.size().1
    }
}

/// A span about one picture of an order.
fn span(order: &Span, name: &'static str, place: usize) -> Span {
    if order.is_none() {
        Span::none()
    } else {
        span!(parent: order, "picture", otel.name = name, likeness.picture = place)
    }
}

fn undrawn(error: RenderError) -> WorkError {
    match error {
        RenderError::Stopped { .. } => WorkError::Stopped,
        RenderError::Look { .. } | RenderError::Steps(_) => refused(ErrorCode::InvalidArgument, error.to_string()),
        RenderError::NotFinite { .. } => refused(ErrorCode::Diverged, error.to_string()),
        RenderError::Tensor(_) => failed(error),
    }
}

/// Contexts of prompts. A prompt is encoded once for each subject that it names, and once for all if it names none, as negative
/// prompts do; the least recently used are forgotten.
struct Contexts {
    model: Arc<BaseModel>,
    kept: Cache<(Option<Sha256>, Prompt), Context>,
}

impl Contexts {
    fn new(model: Arc<BaseModel>) -> Self {
        Self { model, kept: Cache::new(CONTEXTS) }
    }

    fn get(&self, subject: &Subject, prompt: &Prompt) -> likeness_diffusion::TensorResult<Arc<Context>> {
        let key = ((!prompt.slots.is_empty()).then_some(subject.digest), prompt.clone());
        if let Some(context) = self.kept.get(&key) {
            return Ok(context);
        }
        let context = self.model.context(prompt, Some(&subject.embedding.rows))?;
        Ok(self.kept.put(key, context))
    }
}

#[cfg(test)]
mod tests;
