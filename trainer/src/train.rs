//! The training loop. Reads top to bottom; needs no service.

use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::Tensor;
use likeness_proto::{Evaluation, StopReason};
use tracing::info;

use crate::{
    Checkpoint, CheckpointError, Lesson, StopRule, TrainError,
    optimizer::{Optimizer, REFERENCE_BATCH, effective_rate},
};

/// Watches a run, and may stop it. Every method has a default that does nothing.
pub trait Observer {
    /// Asked before each step; a break ends the run with [`TrainError::Interrupted`].
    fn proceed(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// `step` steps are done; `loss` is the last one's.
    fn stepped(&mut self, _step: u32, _loss: f32) {}

    /// The fixed evaluation set was measured.
    fn evaluated(&mut self, _evaluation: Evaluation) {}

    /// A checkpoint is due.
    fn checkpoint(&mut self, _checkpoint: Checkpoint) {}
}

/// Watches nothing.
impl Observer for () {}

/// What a run has learned.
#[derive(Clone, Debug)]
pub struct Learned {
    /// `(vectors, width)`: the best rows by the evaluation loss, not the last.
    pub rows: Tensor,
    /// Steps done.
    pub steps: u32,
    /// Why it stopped.
    pub reason: StopReason,
    /// Evaluation loss of the best rows.
    pub best_loss: f32,
    /// The step the best rows are of.
    pub best_step: u32,
    /// Every evaluation; the first is of the initial phrase.
    pub evaluations: Vec<Evaluation>,
    /// The training loss of every step.
    pub losses: Vec<f32>,
    /// Seconds of work, all attempts.
    pub seconds: f64,
}

/// Learns the lesson, from the start or from a checkpoint of the same run, until the evaluation loss no longer falls or the
/// steps are used up. A resumed run gives the same bits as an unbroken one.
///
/// # Errors
/// See [`TrainError`]. [`TrainError::Interrupted`] and [`TrainError::Diverged`] carry what was learned until then.
pub fn train(
    lesson: &Lesson<'_>,
    from: Option<Checkpoint>,
    observer: &mut dyn Observer,
) -> Result<Learned, TrainError> {
    let (spec, inversion) = (lesson.spec(), lesson.inversion());
    let rate = effective_rate(inversion.learning_rate, spec.batch_size as usize);
    let rule = StopRule::default();
    let mut run = Run::begin(lesson, from)?;
    info!(
        rate, base_rate = inversion.learning_rate, batch = spec.batch_size, reference_batch = REFERENCE_BATCH,
        parameterization = %inversion.parameterization, from_step = run.step,
        "learning rate scaled to the effective batch"
    );

    loop {
        if run.evaluation_due() {
            let loss = lesson.evaluate(&run.optimizer.rows())?;
            run.judge(loss)?;
            observer.evaluated(Evaluation { step: run.step, loss });
        }
        if let Some(reason) = run.finished(&rule) {
            return run.learned(reason);
        }
        if run.checkpoint_due() {
            observer.checkpoint(run.checkpoint());
        }
        if observer.proceed().is_break() {
            return Err(TrainError::Interrupted(Box::new(run.checkpoint())));
        }

        let (loss, gradient) = lesson.gradient(run.step, &run.optimizer.rows())?;
        run.apply(loss, &gradient, rate)?;
        observer.stepped(run.step, loss);
    }
}

/// A run under way.
struct Run<'a> {
    lesson: &'a Lesson<'a>,
    step: u32,
    optimizer: Optimizer,
    best: Vec<f32>,
    best_loss: f32,
    best_step: u32,
    evaluations: Vec<Evaluation>,
    losses: Vec<f32>,
    /// The step of the newest checkpoint, 0 before the first.
    saved: u32,
    digest: String,
    seconds_before: f64,
    began: Instant,
}

impl<'a> Run<'a> {
    fn begin(lesson: &'a Lesson<'a>, from: Option<Checkpoint>) -> Result<Self, TrainError> {
        let optimizer = lesson.start()?;
        let fresh = Self {
            lesson,
            step: 0,
            best: optimizer.rows(),
            optimizer,
            best_loss: f32::INFINITY,
            best_step: 0,
            evaluations: Vec::new(),
            losses: Vec::new(),
            saved: 0,
            digest: lesson.digest(),
            seconds_before: 0.0,
            began: Instant::now(),
        };
        match from {
            None => Ok(fresh),
            Some(checkpoint) => Ok(fresh.resume(checkpoint)?),
        }
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

    /// Every so many steps and after the last, once.
    fn evaluation_due(&self) -> bool {
        let spec = self.lesson.spec();
        let due = self.step.is_multiple_of(spec.evaluate_every) || self.step >= spec.max_steps;
        due && self.evaluations.last().is_none_or(|last| last.step != self.step)
    }

    fn checkpoint_due(&mut self) -> bool {
        let due = self.step.is_multiple_of(self.lesson.spec().checkpoint_every) && self.step != self.saved;
        if due {
            self.saved = self.step;
        }
        due
    }

    /// Takes an evaluation in and keeps the rows when they are the best so far.
    fn judge(&mut self, loss: f32) -> Result<(), TrainError> {
        if !loss.is_finite() {
            return Err(self.diverged(format!("the evaluation loss became {loss}")));
        }
        self.evaluations.push(Evaluation { step: self.step, loss });
        if loss < self.best_loss {
            (self.best, self.best_loss, self.best_step) = (self.optimizer.rows(), loss, self.step);
        }
        Ok(())
    }

    fn finished(&self, rule: &StopRule) -> Option<StopReason> {
        let measured = self.evaluations.last().is_some_and(|last| last.step == self.step);
        if measured && rule.converged(&self.evaluations) {
            return Some(StopReason::Converged);
        }
        (self.step >= self.lesson.spec().max_steps).then_some(StopReason::MaxSteps)
    }

    /// Moves the rows one step; leaves them as they were when something is not finite.
    fn apply(&mut self, loss: f32, gradient: &[f32], rate: f64) -> Result<(), TrainError> {
        if !loss.is_finite() {
            return Err(self.diverged(format!("the loss became {loss}")));
        }
        if let Some(g) = gradient.iter().find(|g| !g.is_finite()) {
            return Err(self.diverged(format!("the gradient became {g}")));
        }
        let mut next = self.optimizer.clone();
        next.step(self.step, gradient, rate);
        if let Some(x) = next.rows().iter().find(|x| !x.is_finite()) {
            return Err(self.diverged(format!("the vectors became {x}")));
        }
        self.optimizer = next;
        self.losses.push(loss);
        self.step += 1;
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

    fn checkpoint(&self) -> Checkpoint {
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

    fn learned(self, reason: StopReason) -> Result<Learned, TrainError> {
        Ok(Learned {
            rows: self.lesson.tensor(&self.best)?,
            steps: self.step,
            reason,
            best_loss: self.best_loss,
            best_step: self.best_step,
            seconds: self.seconds(),
            evaluations: self.evaluations,
            losses: self.losses,
        })
    }
}
