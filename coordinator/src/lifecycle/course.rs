//! One subject's way through a job: its tasks and how they follow from each other.

use likeness_proto::{TaskId, TaskKind};

use super::{Event, Refused, SubjectState, Task, TaskState};
use crate::clock::Timestamp;

/// Tries of a preview: a newer one will come.
const PREVIEW_ATTEMPTS: u32 = 2;

/// The tasks of one subject in one job. Order of work: train, then every render, then assemble. Previews come while it trains and stand
/// beside: nothing waits for them, and how they end shows nowhere.
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
        let is_preview = task.kind == TaskKind::Preview;
        let attempts = if is_preview { attempts.min(PREVIEW_ATTEMPTS) } else { attempts };
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
            TaskState::Failed | TaskState::Dead if is_preview => {}
            TaskState::Failed | TaskState::Dead => effects.extend(self.drop_rest(now)),
            TaskState::Waiting | TaskState::Leased(_) | TaskState::Cancelled => {}
        }
        if self.state().ended() {
            effects.extend(self.drop_rest(now));
            effects.push(Effect::Ended(self.state()));
        } else {
            effects.extend(self.drop_previews(now));
        }
        Ok(effects)
    }

    /// Adds a preview, which is ready; the store has to add it too. An earlier one that nobody has begun is dropped for it.
    pub(crate) fn preview(&mut self, now: Timestamp, id: TaskId) -> Vec<Effect> {
        self.tasks.push(Task { id, kind: TaskKind::Preview, state: TaskState::Ready, grants: 0, strikes: 0 });
        let mut effects = self.drop_previews(now);
        effects.push(Effect::Wake(id));
        effects
    }

    /// Whether another preview is wanted: while it trains, and no more than `most` in all.
    pub(crate) fn wants_preview(&self, most: u32) -> bool {
        let previews = self.tasks.iter().filter(|task| task.kind == TaskKind::Preview).count();
        self.state() == SubjectState::Training && previews < most as usize
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
        let tasks = || self.tasks.iter().filter(|task| task.kind != TaskKind::Preview);
        let any = |wanted: fn(TaskState) -> bool| tasks().any(|task| wanted(task.state));
        let started = tasks().any(|task| task.grants > 0);
        if any(|state| matches!(state, TaskState::Failed | TaskState::Dead)) {
            SubjectState::Failed
        } else if any(|state| state == TaskState::Cancelled) {
            SubjectState::Cancelled
        } else if tasks().all(|task| task.state == TaskState::Done) {
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
            TaskKind::Preview => false,
        };
        for task in self.tasks.iter_mut().filter(|task| free(task.kind)) {
            if task.apply(now, self.attempts, Event::Unblocked) == Ok(true) {
                effects.extend([Effect::Save(task.id), Effect::Wake(task.id)]);
            }
        }
    }

    fn drop_rest(&mut self, now: Timestamp) -> Vec<Effect> {
        self.drop_those(now, |_| true)
    }

    /// Drops previews that nobody is at and that nothing new is to be seen in: there is a newer one, or the avatars themselves are next.
    fn drop_previews(&mut self, now: Timestamp) -> Vec<Effect> {
        let trained = self.is_done(TaskKind::Train);
        let newest = self.tasks.iter().rfind(|task| task.kind == TaskKind::Preview).map(|task| task.id);
        let is_outdated = |task: &Task| task.kind == TaskKind::Preview && (trained || Some(task.id) != newest);
        self.drop_those(now, |task| task.state == TaskState::Ready && is_outdated(task))
    }

    fn drop_those(&mut self, now: Timestamp, which: impl Fn(&Task) -> bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        for task in self.tasks.iter_mut().filter(|task| which(task)) {
            if task.apply(now, self.attempts, Event::Cancelled) == Ok(true) {
                effects.push(Effect::Save(task.id));
            }
        }
        effects
    }
}
