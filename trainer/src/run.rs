//! One subject's run: what it wants next, and what it does with a loss and a gradient.

use std::time::Instant;

use candle_core::{Device, Tensor};
use likeness_proto::{Evaluation, StopReason};
use likeness_telemetry::trace::Parent;
use tracing::{info, warn};

use crate::{
    Checkpoint, CheckpointError, Learned, Lesson, Snapshot, StopRule, TrainError,
    lesson::Batch,
    optimizer::{Optimizer, REFERENCE_BATCH, effective_rate},
    pass::Ask,
};

/// A run under way. It knows nothing of others.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    lesson: Lesson,
    rule: StopRule,
    rate: f64,
    step: u32,
    optimizer: Optimizer,
    best: Vec<f32>,
    best_loss: f32,
    best_step: u32,
    evaluations: Vec<Evaluation>,
    losses: Vec<f32>,
    /// The step of the newest checkpoint, 0 before the first.
    saved: u32,
    /// The newest preview point that was passed, and the rows there; until somebody takes them.
    passed: Option<(u32, Vec<f32>)>,
    digest: String,
    seconds_before: f64,
    began: Instant,
    trace: Option<Parent>,
}

impl Run {
    /// From the start, or from a checkpoint of the same run.
    pub(crate) fn begin(lesson: Lesson, from: Option<Checkpoint>) -> Result<Self, TrainError> {
        let mut run = Self::quietly(lesson, from)?;
        run.pass(); // again where it resumes at a point: it may not have been told
        let inversion = run.lesson.inversion();
        info!(
            rate = run.rate, base_rate = inversion.learning_rate, batch = run.lesson.spec().batch_size,
            reference_batch = REFERENCE_BATCH, parameterization = %inversion.parameterization, from_step = run.step,
            "learning rate scaled to the effective batch"
        );
        Ok(run)
    }

    /// As [`Run::begin`], of a run that is under way elsewhere.
    pub(crate) fn quietly(lesson: Lesson, from: Option<Checkpoint>) -> Result<Self, TrainError> {
        let optimizer = lesson.start()?;
        let (inversion, batch) = (lesson.inversion(), lesson.spec().batch_size);
        let fresh = Self {
            rule: StopRule::default(),
            rate: effective_rate(inversion.learning_rate, batch as usize),
            step: 0,
            best: optimizer.rows(),
            optimizer,
            best_loss: f32::INFINITY,
            best_step: 0,
            evaluations: Vec::new(),
            losses: Vec::new(),
            saved: 0,
            passed: None,
            digest: lesson.digest(),
            seconds_before: 0.0,
            began: Instant::now(),
            trace: None,
            lesson,
        };
        Ok(match from {
            None => fresh,
            Some(checkpoint) => fresh.resume(checkpoint)?,
        })
    }

    /// Goes on where another rank has brought it, by what it passed on the way.
    pub(crate) fn adopt(&mut self, there: Checkpoint, passed: Option<(u32, Vec<f32>)>) -> Result<(), CheckpointError> {
        let (saved, seconds_before, began) = (self.saved, self.seconds_before, self.began);
        let passed = passed.or(self.passed.take());
        *self = Self { saved, seconds_before, began, passed, ..self.clone().resume(there)? };
        Ok(())
    }

    /// Keeps the rows where a preview is due.
    fn pass(&mut self) {
        if self.lesson.spec().is_preview_point(self.step) {
            self.passed = Some((self.step, self.optimizer.rows()));
        }
    }

    /// The newest preview point that was passed, and the rows there.
    pub(crate) fn take_passed(&mut self) -> Option<(u32, Vec<f32>)> {
        self.passed.take()
    }

    /// What a preview is to be drawn with, where one is due.
    pub(crate) fn due_preview(&mut self) -> Option<Snapshot> {
        let (step, rows) = self.take_passed()?;
        let loss = self.evaluations.iter().rfind(|evaluation| evaluation.step <= step)?.loss; // the first is of step 0
        let vectors = self.lesson.inversion().vectors as usize;
        let rows = Tensor::from_slice(&rows, (vectors, rows.len() / vectors), &Device::Cpu);
        Some(Snapshot { rows: rows.inspect_err(|error| warn!(%error, step, "no preview")).ok()?, step, loss })
    }

    /// What is learned.
    pub(crate) fn lesson(&self) -> &Lesson {
        &self.lesson
    }

    /// Has its steps and evaluations told of as children of `parent`.
    pub(crate) fn traced(self, parent: Option<Parent>) -> Self {
        Self { trace: parent, ..self }
    }

    /// What its steps and evaluations are children of, if anybody is told of them.
    pub(crate) fn trace(&self) -> Option<&Parent> {
        self.trace.as_ref()
    }

    /// Samples of a step.
    pub(crate) fn batch(&self) -> usize {
        self.lesson.spec().batch_size as usize
    }

    /// How many losses and evaluations there are.
    pub(crate) fn told(&self) -> (usize, usize) {
        (self.losses.len(), self.evaluations.len())
    }

    /// The losses and evaluations since there were so many.
    pub(crate) fn since(&self, (losses, evaluations): (usize, usize)) -> (&[f32], &[Evaluation]) {
        (&self.losses[losses..], &self.evaluations[evaluations..])
    }

    fn resume(self, from: Checkpoint) -> Result<Self, CheckpointError> {
        from.check(self.lesson.model().digest.as_ref(), &self.digest)?;
        let wrong = || CheckpointError::Damaged("its vectors are not of this run's shape".to_owned());
        Ok(Self {
            step: from.step,
            optimizer: self.optimizer.resume(from.optimizer).ok_or_else(wrong)?,
            best: from.best,
            best_loss: from.best_loss,
            best_step: from.best_step,
            evaluations: from.evaluations,
            losses: from.losses,
            saved: from.step,
            seconds_before: from.seconds,
            ..self
        })
    }

    /// Steps done.
    pub(crate) fn step(&self) -> u32 {
        self.step
    }

    /// Every so many steps and after the last, once.
    pub(crate) fn evaluation_due(&self) -> bool {
        let spec = self.lesson.spec();
        let due = self.step.is_multiple_of(spec.evaluate_every) || self.step >= spec.max_steps;
        due && self.evaluations.last().is_none_or(|last| last.step != self.step)
    }

    /// What an evaluation measures.
    pub(crate) fn evaluation(&self) -> Ask<'_> {
        self.lesson.ask(Batch::Evaluation, self.optimizer.rows())
    }

    /// Takes an evaluation in and keeps the rows when they are the best so far.
    pub(crate) fn judge(&mut self, loss: f32) -> Result<Evaluation, TrainError> {
        if !loss.is_finite() {
            return Err(self.diverged(format!("the evaluation loss became {loss}")));
        }
        let evaluation = Evaluation { step: self.step, loss };
        self.evaluations.push(evaluation);
        if loss < self.best_loss {
            (self.best, self.best_loss, self.best_step) = (self.optimizer.rows(), loss, self.step);
        }
        Ok(evaluation)
    }

    /// Why it is done, if it is.
    pub(crate) fn finished(&self) -> Option<StopReason> {
        let measured = self.evaluations.last().is_some_and(|last| last.step == self.step);
        if measured && self.rule.converged(&self.evaluations) {
            return Some(StopReason::Converged);
        }
        (self.step >= self.lesson.spec().max_steps).then_some(StopReason::MaxSteps)
    }

    /// A checkpoint, where one is due or has been since the newest.
    pub(crate) fn due_checkpoint(&mut self) -> Option<Checkpoint> {
        let every = self.lesson.spec().checkpoint_every;
        (self.step / every > self.saved / every).then(|| {
            self.saved = self.step;
            self.checkpoint()
        })
    }

    /// What the next step measures.
    pub(crate) fn training(&self) -> Ask<'_> {
        self.lesson.ask(Batch::Step(self.step), self.optimizer.rows())
    }

    /// Moves the rows one step; leaves them as they were when something is not finite.
    pub(crate) fn apply(&mut self, loss: f32, gradient: &[f32]) -> Result<(), TrainError> {
        if !loss.is_finite() {
            return Err(self.diverged(format!("the loss became {loss}")));
        }
        if let Some(g) = gradient.iter().find(|g| !g.is_finite()) {
            return Err(self.diverged(format!("the gradient became {g}")));
        }
        let mut next = self.optimizer.clone();
        next.step(self.step, gradient, self.rate);
        if let Some(x) = next.rows().iter().find(|x| !x.is_finite()) {
            return Err(self.diverged(format!("the vectors became {x}")));
        }
        self.optimizer = next;
        self.losses.push(loss);
        self.step += 1;
        self.pass();
        Ok(())
    }

    fn diverged(&self, what: String) -> TrainError {
        let rate = self.lesson.inversion().learning_rate;
        TrainError::Diverged {
            what,
            step: self.step,
            rate,
            suggestion: rate / 10.0,
            last_loss: self.losses.last().copied().unwrap_or(f32::NAN),
            kept: Box::new(self.checkpoint()),
        }
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.began.elapsed().as_secs_f64()
    }

    /// Where it stands.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            step: self.step,
            base_model: self.lesson.model().digest.to_string(),
            run: self.digest.clone(),
            optimizer: self.optimizer.state(),
            best: self.best.clone(),
            best_loss: self.best_loss,
            best_step: self.best_step,
            evaluations: self.evaluations.clone(),
            losses: self.losses.clone(),
            seconds: self.seconds(),
        }
    }

    /// What it has learned.
    pub(crate) fn learned(&self, reason: StopReason) -> Result<Learned, TrainError> {
        Ok(Learned {
            rows: self.lesson.tensor(&self.best)?,
            steps: self.step,
            reason,
            best_loss: self.best_loss,
            best_step: self.best_step,
            seconds: self.seconds(),
            evaluations: self.evaluations.clone(),
            losses: self.losses.clone(),
        })
    }
}
