//! Many ranks at one pack: each measures its share of every step's samples, and one sum over the ranks makes the step.
//!
//! Rank 0 leads. It alone has the runs, with their vectors, optimisers and decisions; the others keep lessons and measure what it
//! announces. So no two ranks can come to different decisions, and a rank that comes anew needs nothing but the next announcement.

mod crew;
mod follow;
mod lead;
mod place;
mod share;
mod stretch;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use likeness_diffusion::BaseModel;
use tracing::{error, warn};

use crate::{
    Curve,
    collective::{Assembly, Collective, Terms, on_device, sums_by},
};

pub(crate) use crew::Crew;
pub use follow::{Follower, follow};
pub use place::Placement;

impl Terms {
    /// Of this program with `model`, in a group of `size` ranks.
    #[must_use]
    pub fn of(model: &BaseModel, size: usize) -> Self {
        let software = format!("{}, sums by {}", env!("CARGO_PKG_VERSION"), sums_by(&model.device));
        Self { software, base_model: model.digest.to_string(), size }
    }
}

/// The ranks that a trainer leads: its own, a thread each, and those that join from other processes. Cheap to clone.
#[derive(Clone)]
pub struct Group {
    assembly: Assembly,
    /// Of each own rank; on its device.
    models: Arc<[Arc<BaseModel>]>,
    limit: Duration,
    placement: Option<Placement>,
    curve: Option<Curve>,
}

impl Group {
    /// An own rank for each of `models`, at least one, and `others` that join. Whoever keeps the group waiting longer than
    /// `limit` is lost. Without a `placement` it is chosen for every pack.
    #[must_use]
    pub fn new(models: Vec<Arc<BaseModel>>, others: usize, limit: Duration, placement: Option<Placement>) -> Self {
        let (own, terms) = (models.len(), Terms::of(&models[0], models.len() + others));
        Self { assembly: Assembly::new(terms, own, limit), models: models.into(), limit, placement, curve: None }
    }

    /// Has placements chosen by what steps were measured to take.
    #[must_use]
    pub fn with_curve(self, curve: Option<Curve>) -> Self {
        Self { curve, ..self }
    }

    /// Where the others join.
    #[must_use]
    pub fn assembly(&self) -> Assembly {
        self.assembly.clone()
    }

    /// Waits for all ranks, `patience` at most, and starts the own ones but the first, which it gives back.
    fn form(&self, positions: usize, patience: Duration) -> Result<Box<dyn Collective>, Vec<usize>> {
        let mut ends = self.assembly.form(patience)?.into_iter();
        let lead = ends.next().ok_or_else(Vec::new)?;
        for (end, model) in ends.zip(self.models.iter().skip(1)) {
            let (rank, model, limit) = (end.rank(), Arc::clone(model), self.limit);
            let work = move || {
                let Err(error) = follow::join(Box::new(end), &model, limit, positions);
                warn!(rank, %error, "rank has ended");
            };
            if let Err(error) = thread::Builder::new().name(format!("trainer-rank-{rank}")).spawn(work) {
                error!(rank, %error, "no thread for a rank, its group ends"); // its end was dropped
            }
        }
        on_device(Box::new(lead), &self.models[0].device, self.limit).map_err(|error| {
            warn!(%error, "ranks cannot make sums together, the group is formed again");
            Vec::new()
        })
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { models, limit, placement, .. } = self;
        f.debug_struct("Group").field("own", &models.len()).field("limit", limit).field("placement", placement).finish()
    }
}
