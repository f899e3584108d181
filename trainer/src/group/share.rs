//! Which rank measures which samples, and the one sum that makes subjects' means of what all have measured.

use candle_core::bail;
use likeness_telemetry::{child, metrics::Stopwatch, trace::Parent};
use tracing::warn;

use super::place::{Load, Placement};
use crate::{
    collective::{Collective, CollectiveError},
    metrics,
    pass::{self, Ask},
    spans,
};

/// What is to be known of samples, and who measures which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    /// Gradients too, or losses alone.
    pub(super) gradients: bool,
    pub(super) placement: Placement,
    /// Latent positions of one pass on this rank.
    pub(super) positions: usize,
}

/// Mean loss and gradient of each subject; the gradient is empty where it is not wanted.
pub(super) type Means = Vec<candle_core::Result<(f32, Vec<f32>)>>;

/// Measures the own share of `asked` and adds up over all ranks, losses and gradients of all subjects in one call. What a rank
/// gives of a subject is the sum over its samples divided by the subject's whole batch. A subject that fails anywhere fails alone.
/// `whole` is what it is a part of, if anybody is told.
pub(super) fn measure(
    end: &mut dyn Collective,
    asked: &[Ask<'_>],
    task: Task,
    whole: Option<&Parent>,
) -> Result<Means, CollectiveError> {
    let (rank, size) = (end.rank(), end.size());
    let _entered = spans::share(whole, rank, asked.len()).entered();
    let share = |place: usize| task.placement.range(load_of(&asked[place]), place, rank, size);
    let shares: Vec<_> = asked.iter().enumerate().map(|(place, ask)| ask.part(share(place))).collect();
    let own: Means = match task.gradients {
        true => pass::gradients(&shares, task.positions),
        false => pass::losses(&shares, task.positions).into_iter().map(|loss| Ok((loss?, Vec::new()))).collect(),
    };

    let mut sums = vec![0.0]; // so that it is a sum like any other where nothing is asked, as in a rehearsal
    for (ask, own) in asked.iter().zip(&own) {
        match own {
            Ok((loss, gradient)) => sums.extend([0.0, *loss].iter().chain(gradient)),
            Err(error) => {
                warn!(rank, %error, "samples of a subject cannot be measured");
                sums.push(1.0);
                sums.extend(vec![0.0; 1 + numbers(ask, task)]);
            }
        }
    }
    let began = Stopwatch::start();
    child!("all reduce", likeness.numbers = sums.len()).in_scope(|| end.all_reduce_sum(&mut sums))?;
    metrics::all_reduced(began);

    let mut rest = &sums[1..];
    let mut take = |length: usize| {
        let (first, others) = rest.split_at(length);
        rest = others;
        first
    };
    let mean = |(ask, own): (&Ask<'_>, candle_core::Result<_>)| {
        let (head, gradient) = (take(2), take(numbers(ask, task)));
        match (own, head[0] > 0.0) {
            (Err(error), _) => Err(error),
            (Ok(_), true) => bail!("its samples cannot be measured on another rank, whose log says why"),
            (Ok(_), false) => Ok((head[1], gradient.to_vec())),
        }
    };
    Ok(asked.iter().zip(own).map(mean).collect())
}

/// Numbers of a subject's gradient.
fn numbers(ask: &Ask<'_>, task: Task) -> usize {
    if task.gradients { ask.rows.len() } else { 0 }
}

fn load_of(ask: &Ask<'_>) -> Load {
    Load { samples: ask.samples.len(), turn: ask.lesson.turn() }
}
