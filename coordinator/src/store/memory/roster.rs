//! Who works on what.

use likeness_proto::{TaskKind, TenantId};

use super::tables::Tables;
use crate::lifecycle::TaskState;
use crate::store::{Hand, Held, Roster};

impl Tables {
    pub(super) fn roster(&self, of: Option<&TenantId>) -> Roster {
        let hand = |worker: &std::sync::Arc<likeness_proto::Registration>| Hand {
            name: worker.worker.clone(),
            incarnation: worker.incarnation,
            kinds: worker.kinds.clone(),
            models: worker.models.iter().map(|model| model.name.clone()).collect(),
            software: worker.software.clone(),
        };
        let workers = if of.is_none() { self.workers.values().map(hand).collect() } else { Vec::new() };
        let mut held = Vec::new();
        for (place, row) in &self.courses {
            if of.is_some_and(|tenant| *tenant != place.tenant) {
                continue;
            }
            for (task, beside) in row.course.tasks.iter().zip(&row.tasks) {
                let TaskState::Leased(lease) = task.state else { continue };
                held.push(Held {
                    holder: lease.holder,
                    tenant: place.tenant.clone(),
                    job: place.job,
                    subject: place.subject.clone(),
                    kind: task.kind,
                    training: row.progress.training.filter(|_| task.kind == TaskKind::Train),
                    drawn: (beside.drawn, beside.shots),
                });
            }
        }
        Roster { workers, held }
    }
}
