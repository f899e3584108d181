//! How tasks are dealt among tenants, and what a tenant may have.

use std::collections::VecDeque;

use likeness_proto::{ModelDigest, ObjectKind, TaskId, TaskKind, TenantId, kind_of};

use super::Result;
use super::tables::{Place, Tables, Writing};
use crate::lifecycle::{Contender, Deal, TaskState, price};
use crate::store::{Limits, Signal, refusals};

/// Who waits for tasks of a kind on a model.
pub(super) type Queue = (i32, ModelDigest, TenantId);

/// A tenant's place in a queue, in virtual time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    begun: i64,
    turn: i64,
}

impl Tables {
    fn limits(&self, tenant: &TenantId) -> Limits {
        self.tenants.get(tenant).map(|tenant| tenant.terms.limits).unwrap_or_default()
    }

    fn weight(&self, tenant: &TenantId) -> u32 {
        self.tenants.get(tenant).map_or(1, |tenant| tenant.terms.weight)
    }

    fn running(&self, tenant: &TenantId) -> u32 {
        let courses = self.courses.iter().filter(|(place, _)| place.tenant == *tenant);
        let tasks = courses.flat_map(|(_, row)| &row.course.tasks);
        tasks.filter(|task| matches!(task.state, TaskState::Leased(_))).count() as u32
    }

    /// Tasks that a tenant may have leased besides those it has.
    fn room(&self, tenant: &TenantId) -> u32 {
        match self.limits(tenant).running_tasks {
            0 => u32::MAX,
            most => most.saturating_sub(self.running(tenant)),
        }
    }

    /// The tenant's tasks that are ready: of the highest priority first, then the oldest.
    fn ready(&self, (kind, model, tenant): &Queue) -> VecDeque<(TaskId, Place, u32)> {
        let mut ready = Vec::new();
        for (place, row) in self.courses.iter().filter(|(place, _)| place.tenant == *tenant) {
            for (position, (task, beside)) in row.course.tasks.iter().zip(&row.tasks).enumerate() {
                if task.state == TaskState::Ready && task.kind.encode() == *kind && beside.model == *model {
                    let order = (std::cmp::Reverse(beside.priority), beside.queued_at, place.job, position, task.id);
                    ready.push((order, place.clone(), beside.cost));
                }
            }
        }
        ready.sort();
        ready.into_iter().map(|(order, place, cost)| (order.4, place, cost)).collect()
    }

    fn queue(&self, kind: TaskKind, model: &ModelDigest) -> Vec<(Queue, Turn)> {
        let of = |((queued, digest, _), _): &(&Queue, &Turn)| *queued == kind.encode() && digest == model;
        self.queues.iter().filter(of).map(|(queue, turn)| (queue.clone(), *turn)).collect()
    }

    /// Tasks of a queue, at most `wanted`, dealt fairly.
    pub(super) fn deal(&mut self, kind: TaskKind, model: &ModelDigest, wanted: usize) -> Vec<(TaskId, Place)> {
        let queue = self.queue(kind, model);
        let is_crowd = queue.len() > 1;
        let (mut lines, mut seats) = (Vec::new(), Vec::new());
        for (queue, Turn { begun, turn }) in queue {
            let (weight, room, tasks) = (self.weight(&queue.2), self.room(&queue.2), self.ready(&queue));
            if !tasks.is_empty() && room > 0 {
                seats.push(Contender { begun, turn, weight, room });
                lines.push((queue, tasks));
            }
        }
        let (mut deal, mut taken) = (Deal::new(seats), Vec::new());
        while taken.len() < wanted {
            let Some(next) = deal.next() else { break };
            match lines[next].1.pop_front() {
                Some((task, place, cost)) => {
                    deal.served(next, cost);
                    taken.push((task, place));
                }
                None => deal.out(next),
            }
        }
        for (index, (queue, _)) in lines.into_iter().enumerate().filter(|_| is_crowd) {
            let Contender { begun, turn, .. } = deal.contender(index);
            self.queues.insert(queue, Turn { begun, turn });
        }
        taken
    }
}

impl Writing<'_> {
    /// Sees to it that the tenant of a task that became ready is in its queue.
    pub(super) fn enqueue(&mut self, place: &Place, task: TaskId) {
        let row = &self.t.courses[place];
        let index = row.index(task).expect("it is of the course");
        let (kind, beside) = (row.course.tasks[index].kind, &row.tasks[index]);
        let (model, cost) = (beside.model.clone(), beside.cost);
        let begun = self.t.queue(kind, &model).iter().map(|(_, turn)| turn.begun).min().unwrap_or(0);
        let turn = begun + price(cost, self.t.weight(&place.tenant));
        self.t.queues.entry((kind.encode(), model, place.tenant.clone())).or_insert(Turn { begun, turn });
    }

    /// Says that something may be ready, if a task ended of a tenant that may have only so many at a time.
    pub(super) fn freed(&mut self, tenant: &TenantId) {
        if self.t.limits(tenant).running_tasks > 0 {
            self.tell(Signal::Ready);
        }
    }

    /// Takes tenants out of queues that have nothing ready there, and lets those catch up that were held back by a limit of their own.
    pub(super) fn tidy_queues(&mut self) {
        let idle: Vec<_> = self.t.queues.keys().filter(|queue| self.t.ready(queue).is_empty()).cloned().collect();
        self.t.queues.retain(|queue, _| !idle.contains(queue));
        let free: Vec<_> = self.t.queues.iter().filter(|(queue, _)| self.t.room(&queue.2) > 0).collect();
        let floor = |of: &Queue| {
            let same = || free.iter().filter(|(queue, _)| (queue.0, &queue.1) == (of.0, &of.1));
            Some(Turn {
                begun: same().map(|(_, turn)| turn.begun).min()?,
                turn: same().map(|(_, turn)| turn.turn).min()?,
            })
        };
        let raise = |(queue, turn): (&Queue, &Turn)| {
            let floor = floor(queue).filter(|floor| turn.turn < floor.turn)?;
            Some((queue.clone(), floor))
        };
        let raised: Vec<_> = self.t.queues.iter().filter_map(raise).collect();
        self.t.queues.extend(raised);
    }

    /// Refuses one more job where the tenant has as many as it may, or as many bytes.
    pub(super) fn check_jobs(&self, id: &TenantId) -> Result<()> {
        let most = self.t.limits(id).queued_jobs;
        let jobs = self.t.jobs.iter().filter(|((tenant, _), row)| tenant == id && row.ended_at.is_none()).count();
        if most > 0 && jobs >= most as usize {
            return Err(refusals::too_many_jobs(id, jobs as u64, most).into());
        }
        self.check_bytes(id, 1)
    }

    /// Refuses what was stored in this transaction where the tenant has more than it may.
    pub(super) fn check_stored(&self, id: &TenantId) -> Result<()> {
        let most = self.t.limits(id).photos;
        let is_photo = |(tenant, key): &&(TenantId, _)| tenant == id && kind_of(key) == ObjectKind::Photo;
        let photos = self.t.objects.keys().filter(is_photo).count();
        if most > 0 && photos > most as usize {
            return Err(refusals::too_many_photos(id, photos as u64, most).into());
        }
        self.check_bytes(id, 0)
    }

    fn check_bytes(&self, id: &TenantId, more: u64) -> Result<()> {
        let most = self.t.limits(id).bytes;
        let objects = self.t.objects.iter().filter(|((tenant, _), _)| tenant == id);
        let bytes: u64 = objects.map(|(_, (_, object))| object.size).sum();
        if most == 0 || bytes + more <= most {
            return Ok(());
        }
        Err(refusals::too_many_bytes(id, bytes, most).into())
    }
}
