//! Counts for metrics.

use std::collections::BTreeSet;

use super::tables::Tables;
use crate::clock::Timestamp;
use crate::lifecycle::TaskState;
use crate::store::census::{Census, Class, Presence, WORKER_GONE};

impl Tables {
    pub(super) fn census(&self, now: Timestamp) -> Census {
        let (mut census, mut holders) = (Census::default(), BTreeSet::new());
        for (place, row) in &self.courses {
            let class = Class::of(self.tenants.get(&place.tenant).map_or(1, |tenant| tenant.terms.weight));
            for (task, beside) in row.course.tasks.iter().zip(&row.tasks) {
                match task.state {
                    TaskState::Ready => {
                        let waits = now.since(beside.ready_at);
                        census.waiting.entry((task.kind, class)).or_default().add(1, waits);
                    }
                    TaskState::Leased(lease) => {
                        *census.leases.entry(task.kind).or_default() += 1;
                        holders.insert(lease.holder);
                    }
                    _other => {}
                }
            }
        }
        for job in self.jobs.values().filter(|job| job.ended_at.is_none()) {
            match census.jobs.iter_mut().find(|(state, _)| *state == job.state) {
                Some((_, jobs)) => *jobs += 1,
                None => census.jobs.push((job.state, 1)),
            }
        }
        for worker in self.workers.values() {
            let is_near = self.seen.get(&worker.incarnation).is_some_and(|seen| now.since(*seen) < WORKER_GONE);
            let presence = match holders.contains(&worker.incarnation) {
                true => Presence::Working,
                false if is_near => Presence::Idle,
                false => continue,
            };
            if let Some(kind) = worker.kinds.first() {
                *census.workers.entry((*kind, presence)).or_default() += 1;
            }
        }
        census
    }
}
