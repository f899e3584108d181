//! One subject's way through a job: its tasks and how they follow from each other.

use likeness_proto::{TaskId, TaskKind};

use super::{Event, Refused, SubjectState, Task, TaskState};
use crate::clock::Timestamp;

/// The tasks of one subject in one job. Order of work: train, then every render, then assemble.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Course {
    pub(crate) tasks: Vec<Task>,
    /// Tries of a task without getting further, after which it is dead.
    pub(crate) attempts: u32,
}

/// What the store has to do after an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Effect {
    /// Save this task; it changed.
    Save(TaskId),
    /// Record this task's result. At most once for each task.
    Publish(TaskId),
    /// Tell waiting workers that this task is ready.
    Wake(TaskId),
    /// Nothing is left to do for the subject, which ended so.
    Ended(SubjectState),
}

impl Course {
    /// Takes an event of one task. A refused event changes nothing.
    pub(crate) fn apply(&mut self, now: Timestamp, id: TaskId, event: Event) -> Result<Vec<Effect>, Refused> {
        let attempts = self.attempts;
        let task = self.tasks.iter_mut().find(|task| task.id == id).ok_or(Refused::Stale)?;
        if !task.apply(now, attempts, event)? {
            return Ok(Vec::new());
        }
        let mut effects = vec![Effect::Save(id)];
        match task.state {
            TaskState::Ready => effects.push(Effect::Wake(id)),
            TaskState::Done => {
                effects.push(Effect::Publish(id));
                self.unblock(now, &mut effects);
            }
            TaskState::Failed | TaskState::Dead => effects.extend(self.drop_rest(now)),
            TaskState::Waiting | TaskState::Leased(_) | TaskState::Cancelled => {}
        }
        if self.state().ended() {
            effects.push(Effect::Ended(self.state()));
        }
        Ok(effects)
    }

    /// Cancels whatever has not ended.
    pub(crate) fn cancel(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = self.drop_rest(now);
        if !effects.is_empty() {
            effects.push(Effect::Ended(self.state()));
        }
        effects
    }

    /// Where the subject stands.
    pub(crate) fn state(&self) -> SubjectState {
        let any = |wanted: fn(TaskState) -> bool| self.tasks.iter().any(|task| wanted(task.state));
        let started = self.tasks.iter().any(|task| task.grants > 0);
        if any(|state| matches!(state, TaskState::Failed | TaskState::Dead)) {
            SubjectState::Failed
        } else if any(|state| state == TaskState::Cancelled) {
            SubjectState::Cancelled
        } else if self.tasks.iter().all(|task| task.state == TaskState::Done) {
            SubjectState::Succeeded
        } else if !started {
            SubjectState::Queued
        } else if !self.is_done(TaskKind::Train) {
            SubjectState::Training
        } else if !self.is_done(TaskKind::Render) {
            SubjectState::Rendering
        } else {
            SubjectState::Assembling
        }
    }

    fn is_done(&self, kind: TaskKind) -> bool {
        self.tasks.iter().filter(|task| task.kind == kind).all(|task| task.state == TaskState::Done)
    }

    /// Makes ready what waits for nothing any more.
    fn unblock(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let (trained, rendered) = (self.is_done(TaskKind::Train), self.is_done(TaskKind::Render));
        let free = |kind| match kind {
            TaskKind::Train => true,
            TaskKind::Render => trained,
            TaskKind::Assemble => trained && rendered,
        };
        for task in self.tasks.iter_mut().filter(|task| free(task.kind)) {
            if task.apply(now, self.attempts, Event::Unblocked) == Ok(true) {
                effects.extend([Effect::Save(task.id), Effect::Wake(task.id)]);
            }
        }
    }

    fn drop_rest(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        for task in &mut self.tasks {
            if task.apply(now, self.attempts, Event::Cancelled) == Ok(true) {
                effects.push(Effect::Save(task.id));
            }
        }
        effects
    }
}
