//! Loads base models.

use crate::bundle;
use crate::exit::{Exit, Failure};
use crate::settings::Settings;
use likeness_diffusion::{Arithmetic, BaseModel, Computing, Device, LoadError, ModelCache};
use likeness_proto::ModelFacts;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

/// Loads the model that is set, else the bundled one.
///
/// # Errors
/// [`Exit::Model`] with the file or tensor that is missing or corrupt, [`Exit::Device`] for a device that is not there.
pub fn load(settings: &Settings) -> Result<BaseModel, Failure> {
    load_on(settings, &settings.device.open(0)?)
}

/// As [`load`], on a device of one's choice.
///
/// # Errors
/// As [`load`].
pub fn load_on(settings: &Settings, device: &Device) -> Result<BaseModel, Failure> {
    let (dir, refuse) = chosen(settings)?;
    let arithmetic = if settings.exact { Arithmetic::Exact } else { Arithmetic::Fast };
    let (checkpointing, precision) = (settings.checkpointing.unwrap_or(false), settings.precision.on(device)?);
    let computing = Computing { arithmetic, checkpointing, precision };
    let cache = match &settings.model_cache {
        Some(folder) => usable(folder, ModelCache::open(folder)),
        None if checkpointing => usable(&settings.state, ModelCache::spill(&settings.state)),
        None => None,
    };
    let model = BaseModel::load_cached(&dir, computing, device, cache.as_ref()).map_err(refuse)?;
    info!(model = %model.name, digest = %model.digest, "base model loaded");
    Ok(model)
}

/// Bytes of the weights of the model that is set.
///
/// # Errors
/// As [`load`].
pub fn stored_bytes(settings: &Settings) -> Result<u64, Failure> {
    let (dir, refuse) = chosen(settings)?;
    BaseModel::stored_bytes(&dir).map_err(refuse)
}

/// The directory of the model that is set, else of the bundled one, and how it is refused.
fn chosen(settings: &Settings) -> Result<(PathBuf, impl Fn(LoadError) -> Failure + use<>), Failure> {
    let dir = bundle::model_dir(settings.model.as_deref())?;
    let place = dir.display().to_string();
    let refuse = move |error| Failure::new(Exit::Model, format!("cannot use the model {place}: {error}"));
    Ok((dir, refuse))
}

/// The cache in a folder, if it can be used: without one the model is held in memory.
fn usable(folder: &Path, cache: std::io::Result<ModelCache>) -> Option<ModelCache> {
    let unused = |error: &std::io::Error| {
        warn!(%error, folder = %folder.display(), "prepared weights cannot be written there, they are held in memory");
    };
    cache.inspect_err(unused).ok()
}

/// As [`load`], off the runtime's threads, to be shared.
///
/// # Errors
/// As [`load`].
pub async fn load_shared(settings: &Settings) -> Result<Arc<BaseModel>, Failure> {
    let settings = settings.clone();
    spawn_blocking(move || load(&settings).map(Arc::new)).await.map_err(Failure::unexpected)?
}

/// What a worker says of the model that it holds.
///
/// # Errors
/// A digest that is none.
pub fn on_the_wire(model: &BaseModel) -> Result<likeness_proto::BaseModel, Failure> {
    let facts = ModelFacts { native_size: model.native_size() as u32, factor: model.vae.factor() as u32 };
    Ok(likeness_proto::BaseModel {
        digest: model.digest.to_string().parse().map_err(Failure::unexpected)?,
        name: model.name.clone(),
        facts,
    })
}
