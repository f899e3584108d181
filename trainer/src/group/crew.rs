//! Who measures a pack's samples: its own thread alone, or the ranks of a group with it.

use std::time::Duration;

use tracing::{info, warn};

use super::{
    Group,
    lead::Lead,
    place::{Costs, Load, Placement, choose},
    share::{Means, Task},
};
use crate::{
    TrainError, metrics,
    pass::{self, Ask},
    run::Run,
};

/// The group is waited for so long at a time; in between runs may be stopped.
const PATIENCE: Duration = Duration::from_millis(250);
/// Ranks go on by themselves for so long, at most, before they hear of new subjects and of those that are to stop.
const STRETCH: Duration = Duration::from_secs(2);

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
    /// Seconds of an announcement and a sum in this group.
    exchange: f64,
    /// For which subjects a placement was chosen, and which.
    chosen: (Vec<Load>, Placement),
}

impl Crew {
    /// The group's ranks, where there is one.
    pub(crate) fn new(group: Option<Group>) -> Self {
        match group {
            None => {
                metrics::ranks(1);
                Self::Alone
            }
            Some(group) => Self::Ranks(Box::new(Led::new(group))),
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
            metrics::ranks(0);
        }
    }

    /// Where every rank has subjects of its own, they go on with them for a while; `runs` are brought to where they stand then.
    ///
    /// # Errors
    /// The group was lost.
    pub(crate) fn stretch(&mut self, runs: &mut [&mut Run], positions: usize) -> Result<(), TrainError> {
        match self {
            Self::Alone => Ok(()),
            Self::Ranks(led) => led.stretch(runs, positions),
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
    fn new(group: Group) -> Self {
        let chosen = (Vec::new(), group.placement.unwrap_or(Placement::Split));
        Self { group, lead: None, missing: Vec::new(), exchange: 0.0, chosen }
    }

    fn stands(&mut self, positions: usize) -> bool {
        if self.lead.is_some() {
            return true;
        }
        match self.group.form(positions, PATIENCE) {
            Ok(end) => {
                self.missing.clear();
                let mut lead = Lead::new(end);
                match lead.rehearse() {
                    Ok(seconds) => {
                        info!(ranks = lead.size(), exchange_ms = 1e3 * seconds, "ranks begin to follow");
                        metrics::ranks(lead.size());
                        (self.exchange, self.lead) = (seconds, Some(lead));
                    }
                    Err(error) => warn!(%error, "group lost as soon as it stood, it is formed again"),
                }
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
        let measured = lead.measure(asked, Task { gradients, placement: self.chosen.1, positions });
        measured.inspect_err(|error| self.lose(error))
    }

    fn stretch(&mut self, runs: &mut [&mut Run], positions: usize) -> Result<(), TrainError> {
        self.place(runs);
        let (Some(lead), Placement::Spread, false) = (&mut self.lead, self.chosen.1, runs.is_empty()) else {
            return Ok(());
        };
        let moved = lead.stretch(runs, STRETCH.min(self.group.limit / 4), positions);
        moved.inspect_err(|error| self.lose(error))
    }

    /// Chooses a placement for these subjects, unless it was just done.
    fn place(&mut self, runs: &[&mut Run]) {
        let load = |run: &&mut Run| {
            let lesson = run.lesson();
            Load { samples: lesson.spec().batch_size as usize, turn: lesson.turn() }
        };
        let loads: Vec<Load> = runs.iter().map(load).collect();
        let Some(lead) = self.lead.as_ref().filter(|_| loads != self.chosen.0) else { return };
        let (placement, why) = match self.group.placement {
            Some(placement) => (placement, "as set".to_owned()),
            None => {
                let costs = Costs { curve: self.group.curve.clone(), exchange: self.exchange };
                choose(&loads, lead.size(), &costs)
            }
        };
        info!(?placement, why, subjects = loads.len(), ranks = lead.size(), "placement chosen");
        self.chosen = (loads, placement);
    }

    fn lose(&mut self, error: &TrainError) {
        warn!(%error, "group lost, it is formed again");
        metrics::ranks(0);
        self.lead = None;
        self.chosen.0.clear();
    }
}
