//! The loop over many runs at once: every step is one forward and backward pass for all of them.

use std::time::{Duration, Instant};

use likeness_telemetry::trace::Parent;
use tracing::{Span, debug};

use crate::{Learned, Observer, TrainError, group::Crew, metrics, run::Run, spans};

/// Runs that share their steps. A run may join or leave between any two of them and notices nothing of the others: its
/// numbers are those it would have alone.
pub(crate) struct Pack<'a, K> {
    members: Vec<Member<'a, K>>,
    /// Latent positions of one pass.
    positions: usize,
    crew: Crew,
}

struct Member<'a, K> {
    key: K,
    run: Run,
    observer: Box<dyn Observer + 'a>,
}

impl<K> Member<'_, K> {
    /// Tells the observer what the run has done elsewhere.
    fn tell_since(&mut self, told: (usize, usize)) {
        let (losses, evaluations) = self.run.since(told);
        let mut evaluations = evaluations.iter().peekable();
        for (step, loss) in (told.0 as u32..).zip(losses) {
            while let Some(evaluation) = evaluations.next_if(|evaluation| evaluation.step <= step) {
                self.observer.evaluated(*evaluation);
            }
            self.observer.stepped(step + 1, *loss);
        }
        evaluations.for_each(|evaluation| self.observer.evaluated(*evaluation));
    }

    /// Lets the observer stop it.
    fn heed(&mut self) -> Result<(), TrainError> {
        match self.observer.proceed().is_break() {
            true => Err(TrainError::Interrupted(Box::new(self.run.checkpoint()))),
            false => Ok(()),
        }
    }
}

/// How a run ended.
pub(crate) type End = Result<Learned, TrainError>;

impl<'a, K> Pack<'a, K> {
    /// Without a member. `crew` measures its samples; at most `positions` latent positions go into one pass.
    pub(crate) fn new(positions: usize, crew: Crew) -> Self {
        Self { members: Vec::new(), positions, crew }
    }

    /// Takes part from the next step on. `key` says whose run it is when it ends.
    pub(crate) fn join(&mut self, key: K, run: Run, observer: Box<dyn Observer + 'a>) {
        let run = run.traced(Parent::of(&observer.span()));
        self.members.push(Member { key, run, observer });
        metrics::subjects(self.members.len());
        debug!(subjects = self.members.len(), "subject joined the pack");
    }

    /// Runs under way.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Drops the runs that nobody waits for.
    pub(crate) fn keep(&mut self, wanted: impl Fn(&K) -> bool) {
        self.members.retain(|member| wanted(&member.key));
    }

    /// How long it may be left alone while it has no member; none: for ever. Then [`Pack::idle`].
    pub(crate) fn silence(&self) -> Option<Duration> {
        self.crew.silence()
    }

    /// Does what there is to do without a member.
    pub(crate) fn idle(&mut self) {
        self.crew.idle(self.positions);
    }

    /// One step of every run: measures those whose evaluation is due, lets those go that are done or asked to stop, and moves
    /// the others. Gives back the runs that ended, whatever the reason, and how. Where ranks are missing, nothing but stopping happens.
    pub(crate) fn step(&mut self) -> Vec<(K, End)> {
        if !self.crew.ready(self.positions) {
            return self.each(|member| member.heed().map(|()| None));
        }
        let mut ended = self.stretch();
        ended.extend(self.evaluate());
        ended.extend(self.settle());
        ended.extend(self.learn());
        metrics::subjects(self.members.len());
        ended
    }

    /// Ranks that have subjects of their own go on with them before the common step.
    fn stretch(&mut self) -> Vec<(K, End)> {
        let began = Instant::now();
        let told: Vec<_> = self.members.iter().map(|member| member.run.told()).collect();
        let mut runs: Vec<&mut Run> = self.members.iter_mut().map(|member| &mut member.run).collect();
        if let Err(lost) = self.crew.stretch(&mut runs, self.positions) {
            return self.abandon(&lost);
        }
        let (mut steps, mut samples) = (0, 0);
        for (member, told) in self.members.iter_mut().zip(told) {
            let made = member.run.since(told).0.len();
            (steps, samples) = (steps.max(made), samples + made * member.run.batch());
            member.tell_since(told);
        }
        metrics::steps(steps, samples, began.elapsed());
        Vec::new()
    }

    fn evaluate(&mut self) -> Vec<(K, End)> {
        let due = self.members.iter().filter(|member| member.run.evaluation_due());
        let (asked, _spans): (Vec<_>, Vec<_>) =
            due.map(|Member { run, .. }| (run.evaluation(), spans::evaluation(run.trace(), run.step()))).unzip();
        let mut losses = match self.crew.losses(&asked, self.positions) {
            Ok(losses) => losses.into_iter(),
            Err(lost) => return self.abandon(&lost),
        };
        self.each(|Member { run, observer, .. }| {
            if run.evaluation_due()
                && let Some(loss) = losses.next()
            {
                observer.evaluated(run.judge(loss?)?);
            }
            Ok(None)
        })
    }

    fn settle(&mut self) -> Vec<(K, End)> {
        self.each(|member| {
            let Member { run, observer, .. } = member;
            if let Some(reason) = run.finished() {
                return run.learned(reason).map(Some);
            }
            if let Some(checkpoint) = run.due_checkpoint() {
                observer.checkpoint(checkpoint);
            }
            if let Some(snapshot) = run.due_preview() {
                observer.preview(snapshot);
            }
            member.heed().map(|()| None)
        })
    }

    fn learn(&mut self) -> Vec<(K, End)> {
        let began = Instant::now();
        let asked: Vec<_> = self.members.iter().map(|member| member.run.training()).collect();
        let samples = asked.iter().map(|ask| ask.samples.len()).sum();
        let places: Vec<_> = self.members.iter().map(|Member { run, .. }| (run.trace().cloned(), run.step())).collect();
        let (span, _parts) = spans::step(&Span::none(), &places, samples);
        let _entered = span.enter();
        let mut measured = match self.crew.gradients(&asked, self.positions) {
            Ok(measured) => measured.into_iter(),
            Err(lost) => return self.abandon(&lost),
        };
        let (made, mut losses) = (usize::from(samples > 0), Vec::with_capacity(asked.len()));
        let ended = self.each(|Member { run, observer, .. }| {
            if let Some(measured) = measured.next() {
                let (loss, gradient) = measured?;
                losses.push(loss);
                run.apply(loss, &gradient)?;
                observer.stepped(run.step(), loss);
            }
            Ok(None)
        });
        metrics::steps(made, samples, began.elapsed());
        metrics::losses(&losses);
        ended
    }

    /// Ends every run, since what measured them is lost.
    fn abandon(&mut self, lost: &TrainError) -> Vec<(K, End)> {
        let why = |member: Member<'a, K>| (member.key, Err(lost.of_all()));
        self.members.drain(..).map(why).collect()
    }

    /// Does something with every run, in order; those that it ends leave, by what they learned or an error.
    fn each(
        &mut self,
        mut act: impl FnMut(&mut Member<'a, K>) -> Result<Option<Learned>, TrainError>,
    ) -> Vec<(K, End)> {
        let mut ended = Vec::new();
        for mut member in std::mem::take(&mut self.members) {
            match act(&mut member).transpose() {
                None => self.members.push(member),
                Some(end) => ended.push((member.key, end)),
            }
        }
        if !ended.is_empty() {
            debug!(ended = ended.len(), subjects = self.members.len(), "subjects left the pack");
        }
        ended
    }
}
