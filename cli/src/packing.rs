//! How a trainer packs on this machine: the choice is the trainer's, made of the settings, the memory there is, and a curve
//! of step times that is measured once for a model and a machine and kept in the state folder.

use crate::device::DeviceWish;
use crate::exit::Failure;
use crate::settings::Settings;
use crate::state_dir::StateDir;
use crate::{files, memory, models};
use likeness_diffusion::BaseModel;
use likeness_diffusion::memory::of_gpu;
use likeness_trainer::{Curve, Fit, Packing, Plan, Point, Wishes};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

/// Of what a process could have, this share is its budget unless one is set.
const SHARE: (u64, u64) = (3, 4);

/// A base model made ready to be trained on.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The model, computing as was chosen.
    pub model: Arc<BaseModel>,
    /// How a trainer packs on it.
    pub plan: Plan,
    /// What its training steps take, where that is known.
    pub curve: Option<Curve>,
}

/// Whether a curve that is not kept yet is measured. It takes as long as some training steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measuring {
    /// Someone waits for one subject.
    Never,
    /// Someone waits for the service: for seconds, and only where a sample is small, so that others may pay beside it.
    Briefly,
    /// Nobody waits.
    Thoroughly,
}

impl Measuring {
    /// How long it may take, for a sample of `area` latent positions.
    fn limit(self, area: usize) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::Briefly => (area < Packing::default().positions).then_some(Duration::from_secs(4)),
            Self::Thoroughly => Some(Duration::from_secs(60)),
        }
    }
}

/// Loads the model that is set and chooses how to train on it, off the runtime's threads.
///
/// # Errors
/// As [`models::load`].
pub async fn load(settings: &Settings, state: Option<&StateDir>, measuring: Measuring) -> Result<Ready, Failure> {
    let (settings, state) = (settings.clone(), state.cloned());
    let load = move || prepare(settings, state.as_ref(), measuring);
    spawn_blocking(load).await.map_err(Failure::unexpected)?
}

fn prepare(mut settings: Settings, state: Option<&StateDir>, measuring: Measuring) -> Result<Ready, Failure> {
    let why = match settings.checkpointing {
        None if weights_are_too_many(&settings)? => {
            settings.checkpointing = Some(true);
            Some("weights alone are more than the memory budget")
        }
        _ => None,
    };
    Ok(ready(models::load(&settings)?, &settings, why, state, measuring))
}

/// Whether they are more than the memory budget, so that they are not to be held in memory as a whole.
fn weights_are_too_many(settings: &Settings) -> Result<bool, Failure> {
    if settings.device != DeviceWish::Cpu {
        return Ok(false);
    }
    let weights = models::stored_bytes(settings)?;
    Ok(budget(settings, memory::within_reach()).is_some_and(|budget| weights > budget))
}

/// `why` there is checkpointing, if it was chosen before.
fn ready(
    mut model: BaseModel,
    settings: &Settings,
    why: Option<&'static str>,
    state: Option<&StateDir>,
    measuring: Measuring,
) -> Ready {
    let side = model.latent_side();
    let (taken, reach) = match of_gpu(&model.device) {
        Some((taken, all)) => (taken, Some(all)),
        None => {
            // Under checkpointing a block's pages are in memory only while it runs.
            let mapped = if settings.checkpointing == Some(true) { 0 } else { model.mapped };
            (memory::own().unwrap_or_default() + mapped, memory::within_reach())
        }
    };
    let wishes = Wishes {
        slots: settings.trainer_slots.and_then(NonZeroUsize::new),
        checkpointing: settings.checkpointing,
        memory: budget(settings, reach).map(|memory| taken + memory.saturating_sub(taken) / settings.ranks as u64),
        ranks: NonZeroUsize::new(settings.ranks * settings.group_size),
    };
    let mut fit = wishes.fit(taken, &model.footprint(side, side));
    fit.checkpointing_why = why.unwrap_or(fit.checkpointing_why);
    model.unet.set_checkpointing(fit.checkpointing);
    let model = Arc::new(model);

    let key = Key::of(&model, settings);
    let known = state.and_then(|state| read(&state.curve(), &key));
    let asked_for = wishes.slots.is_none() || settings.chooses_placement();
    let wanted = known.is_none() && asked_for && fit.samples.get() > 1;
    let limit = measuring.limit(side * side).filter(|_| wanted);
    let curve = known.or_else(|| measure(&model, &fit, limit?, state, key));
    let plan = wishes.plan(&fit, side * side, curve.as_ref());
    tell(&wishes, &fit, curve.as_ref(), &plan);
    Ready { model, plan, curve }
}

fn budget(settings: &Settings, reach: Option<u64>) -> Option<u64> {
    let (share, of) = SHARE;
    settings.memory_budget.map(|mib| mib << 20).or_else(|| Some(reach? / of * share))
}

/// Measures and keeps. Nothing that goes wrong here keeps a trainer from starting.
fn measure(model: &Arc<BaseModel>, fit: &Fit, limit: Duration, state: Option<&StateDir>, key: Key) -> Option<Curve> {
    info!(?limit, "measuring what training steps take, once for this model and machine");
    let measured = Curve::measure(model, fit.samples, limit);
    let curve = measured.inspect_err(|error| warn!(%error, "training steps cannot be measured")).ok()?;
    if let Some(state) = state {
        let kept = state.make().and_then(|()| write(&state.curve(), key, &curve));
        kept.unwrap_or_else(|error| warn!(%error, "the measured curve cannot be kept, it will be measured again"));
    }
    Some(curve)
}

fn tell(wishes: &Wishes, fit: &Fit, curve: Option<&Curve>, plan: &Plan) {
    let mib = |bytes: u64| bytes >> 20;
    if fit.tight {
        warn!(
            budget_mib = wishes.memory.map(mib),
            sample_mib = mib(fit.bytes_each),
            "a single sample goes beyond the memory budget"
        );
    }
    info!(
        slots = plan.packing.slots,
        slots_why = plan.slots_why,
        samples_per_pass = plan.samples,
        samples_why = plan.samples_why,
        positions = plan.packing.positions,
        checkpointing = fit.checkpointing,
        checkpointing_why = fit.checkpointing_why,
        budget_mib = wishes.memory.map(mib),
        sample_mib = mib(fit.bytes_each),
        curve = curve.map_or_else(|| "none".to_owned(), Curve::to_string),
        "packing chosen"
    );
}

/// What a curve is of. Any difference makes it another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    base_model: String,
    device: String,
    precision: String,
    cpu: String,
    threads: usize,
    software: String,
    exact: bool,
    checkpointing: bool,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    of: Key,
    /// Samples of a step, and its seconds.
    steps: Vec<(usize, f64)>,
}

impl Key {
    fn of(model: &BaseModel, settings: &Settings) -> Self {
        Self {
            base_model: model.digest.to_string(),
            device: format!("{:?}", model.device.location()),
            precision: format!("{:?}", model.unet.precision()),
            cpu: cpu(),
            threads: rayon::current_num_threads(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            exact: settings.exact,
            checkpointing: model.unet.checkpointing(),
        }
    }
}

/// The processor's name, or at least its kind.
fn cpu() -> String {
    let name = |text: String| {
        Some(text.lines().find(|line| line.starts_with("model name"))?.split_once(':')?.1.trim().to_owned())
    };
    fs::read_to_string("/proc/cpuinfo").ok().and_then(name).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The kept curve, if there is one and it is of `key`.
fn read(path: &Path, key: &Key) -> Option<Curve> {
    let place = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(%error, %place, "the measured curve cannot be read");
            return None;
        }
    };
    let kept: Kept = serde_json::from_str(&text)
        .inspect_err(|error| warn!(%error, %place, "the measured curve cannot be read"))
        .ok()?;
    if kept.of != *key {
        warn!(%place, "the measured curve is of another model, machine or version");
        return None;
    }
    let points = kept.steps.into_iter().map(|(samples, seconds)| Point { samples, seconds }).collect();
    let curve = Curve::new(points);
    if curve.is_none() {
        warn!(%place, "the measured curve makes no sense");
    }
    curve
}

fn write(path: &Path, of: Key, curve: &Curve) -> Result<(), Failure> {
    let steps = curve.points().iter().map(|point| (point.samples, point.seconds)).collect();
    let text = serde_json::to_string_pretty(&Kept { of, steps }).map_err(Failure::unexpected)?;
    files::write(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Sources;

    fn settings(flags: &[(&'static str, &str)]) -> Settings {
        let flags = flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Settings::resolve(&Sources { flags, ..Sources::default() }).unwrap().settings
    }

    fn prepared(settings: &Settings, state: &StateDir, measuring: Measuring) -> Ready {
        prepare(settings.clone(), Some(state), measuring).unwrap()
    }

    fn kept(state: &StateDir) -> Kept {
        serde_json::from_str(&fs::read_to_string(state.curve()).unwrap()).unwrap()
    }

    #[test]
    fn a_curve_is_measured_once_and_again_where_the_file_is_foreign_or_damaged() {
        let home = tempfile::tempdir().unwrap();
        let (state, settings) = (StateDir::at(home.path().join("state")), settings(&[]));
        prepared(&settings, &state, Measuring::Briefly);
        let first = kept(&state);
        assert!(first.steps.len() > 1, "{first:?}");

        // 32 samples at the price of one are taken at their word: the file is read, not measured again.
        let told = Kept { of: first.of.clone(), steps: vec![(1, 1.0), (32, 1.0)] };
        fs::write(state.curve(), serde_json::to_string(&told).unwrap()).unwrap();
        let plan = prepared(&settings, &state, Measuring::Never).plan;
        assert_eq!((plan.samples.get(), plan.packing.slots.get()), (32, 4));

        let elsewhere = Kept { of: Key { cpu: "another".to_owned(), ..first.of.clone() }, ..told };
        for bad in [serde_json::to_string(&elsewhere).unwrap(), "{\"of\":".to_owned()] {
            fs::write(state.curve(), bad).unwrap();
            assert_eq!(prepared(&settings, &state, Measuring::Never).plan.packing, Packing::default());
            prepared(&settings, &state, Measuring::Briefly);
            assert_eq!(kept(&state).of, first.of);
        }
        fs::write(state.curve(), serde_json::to_string(&Kept { of: first.of, steps: vec![(0, -1.0)] }).unwrap())
            .unwrap();
        assert_eq!(prepared(&settings, &state, Measuring::Never).plan.packing, Packing::default());
    }

    #[test]
    fn what_is_set_is_not_measured() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::at(home.path());
        let ready = prepared(&settings(&[("trainer_slots", "3")]), &state, Measuring::Thoroughly);
        assert_eq!(ready.plan.packing.slots.get(), 3);
        assert!(!state.curve().exists());
    }

    #[test]
    fn a_small_budget_turns_checkpointing_on_unless_it_is_set() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::at(home.path());
        let chosen = |flags: &[(&'static str, &str)]| {
            let flags = [flags, &[("state", home.path().to_str().unwrap())]].concat();
            let Ready { model, plan, .. } = prepared(&settings(&flags), &state, Measuring::Never);
            (model.unet.checkpointing(), model.mapped > 0, plan.samples.get())
        };
        // The weights take 12 MiB.
        assert_eq!(chosen(&[("memory_budget", "1")]), (true, true, 1), "weights are pages of a file");
        assert_eq!(chosen(&[("memory_budget", "20")]), (true, false, 1), "weights fit, no sample does");
        assert_eq!(chosen(&[("memory_budget", "1"), ("checkpointing", "false")]), (false, false, 1));
        assert_eq!(chosen(&[("memory_budget", "1000000")]), (false, false, 16));
    }

    #[test]
    fn the_service_does_not_wait_where_one_sample_fills_a_pass() {
        assert_eq!(Measuring::Briefly.limit(64 * 64), None);
        assert!(Measuring::Briefly.limit(16 * 16).is_some() && Measuring::Thoroughly.limit(64 * 64).is_some());
        assert_eq!(Measuring::Never.limit(1), None);
    }
}
