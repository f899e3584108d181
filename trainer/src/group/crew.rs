//! Who measures a pack's samples: its own thread alone, or the ranks of a group with it.

use std::time::Duration;

use tracing::{info, warn};

use super::{
    Group,
    lead::Lead,
    share::{Means, Placement, Task},
};
use crate::{
    TrainError,
    pass::{self, Ask},
};

/// The group is waited for so long at a time; in between runs may be stopped.
const PATIENCE: Duration = Duration::from_millis(250);

/// Who measures a pack's samples.
pub(crate) enum Crew {
    /// The pack's own thread.
    Alone,
    /// All ranks of a group, which is formed again whenever it was lost.
    Ranks(Box<Led>),
}

/// A group, as its leader has it.
pub(crate) struct Led {
    group: Group,
    /// While the group stands.
    lead: Option<Lead>,
    /// Who was waited for when it was last told.
    missing: Vec<usize>,
}

impl Crew {
    /// The group's ranks, where there is one.
    pub(crate) fn new(group: Option<Group>) -> Self {
        match group {
            None => Self::Alone,
            Some(group) => Self::Ranks(Box::new(Led { group, lead: None, missing: Vec::new() })),
        }
    }

    /// Whether all are there. Waits for them a moment where they are not. At most `positions` go into a pass of the own ranks.
    pub(crate) fn ready(&mut self, positions: usize) -> bool {
        match self {
            Self::Alone => true,
            Self::Ranks(led) => led.stands(positions),
        }
    }

    /// How long it may be left without a word; none: for ever.
    pub(crate) fn silence(&self) -> Option<Duration> {
        match self {
            Self::Alone => None,
            Self::Ranks(led) => Some(if led.lead.is_some() { led.group.limit / 4 } else { Duration::ZERO }),
        }
    }

    /// There is nothing to do. Lets the others know, or waits for them a moment.
    pub(crate) fn idle(&mut self, positions: usize) {
        let Self::Ranks(led) = self else { return };
        if led.stands(positions)
            && let Some(lead) = &mut led.lead
            && let Err(error) = lead.idle()
        {
            warn!(%error, "group lost while idle, it is formed again");
            led.lead = None;
        }
    }

    /// Mean loss of each subject's samples, and its gradient with respect to the subject's rows. A subject that cannot be measured
    /// fails alone.
    ///
    /// # Errors
    /// The group was lost.
    pub(crate) fn gradients(&mut self, asked: &[Ask<'_>], positions: usize) -> Result<Means, TrainError> {
        match self {
            Self::Alone => Ok(pass::gradients(asked, positions)),
            Self::Ranks(led) => led.measure(asked, true, positions),
        }
    }

    /// Mean loss of each subject's samples, as [`Crew::gradients`] but without the way back.
    ///
    /// # Errors
    /// The group was lost.
    pub(crate) fn losses(
        &mut self,
        asked: &[Ask<'_>],
        positions: usize,
    ) -> Result<Vec<candle_core::Result<f32>>, TrainError> {
        match self {
            Self::Alone => Ok(pass::losses(asked, positions)),
            Self::Ranks(led) => {
                let means = led.measure(asked, false, positions)?;
                Ok(means.into_iter().map(|mean| mean.map(|(loss, _)| loss)).collect())
            }
        }
    }
}

impl Led {
    fn stands(&mut self, positions: usize) -> bool {
        if self.lead.is_some() {
            return true;
        }
        match self.group.form(positions, PATIENCE) {
            Ok(end) => {
                info!(ranks = end.size(), "ranks begin to follow");
                self.missing.clear();
                self.lead = Some(Lead::new(end));
            }
            Err(missing) if missing != self.missing => {
                info!(?missing, "group waits for ranks");
                self.missing = missing;
            }
            Err(_told) => {}
        }
        self.lead.is_some()
    }

    fn measure(&mut self, asked: &[Ask<'_>], gradients: bool, positions: usize) -> Result<Means, TrainError> {
        let (Some(lead), false) = (&mut self.lead, asked.is_empty()) else { return Ok(Vec::new()) };
        let measured = lead
            .measure(asked, Task { gradients, placement: self.group.placement.unwrap_or(Placement::Split), positions });
        if let Err(error) = &measured {
            warn!(%error, "group lost, it is formed again");
            self.lead = None;
        }
        measured
    }
}
