//! The model, its subjects, and one training.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use likeness_diffusion::{BaseModel, Device};
use likeness_proto::{ModelFacts, TrainSpec, v1};
use likeness_trainer::{Latents, Learned, Lesson, Photo, Subject, train};

pub(crate) type AnyError = Box<dyn std::error::Error>;

/// A token that no vocabulary has.
pub(crate) const TOKEN: &str = "<subject>";
/// What all the bundled subjects are.
pub(crate) const INIT: &str = "person";

pub(crate) struct World {
    pub(crate) model: Arc<BaseModel>,
    /// By folder name.
    pub(crate) subjects: Vec<(String, Subject)>,
}

impl World {
    pub(crate) fn load(folder: &Path) -> Result<Self, AnyError> {
        let model = Arc::new(BaseModel::load(folder, &Device::Cpu)?);
        let subjects = sorted(&folder.join("subjects"))?
            .into_iter()
            .filter(|path| path.is_dir())
            .map(|path| {
                Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), subject(&model, &path)?))
            })
            .collect::<Result<_, AnyError>>()?;
        Ok(Self { model, subjects })
    }

    /// The defaults of a spec, with `inversion` on top.
    pub(crate) fn spec(&self, inversion: v1::TextualInversion) -> Result<TrainSpec, AnyError> {
        let wire =
            v1::TrainSpec { method: Some(v1::train_spec::Method::TextualInversion(inversion)), ..Default::default() };
        let (native_size, factor) = (self.model.native_size() as u32, self.model.vae.factor() as u32);
        Ok(TrainSpec::resolve(wire, &ModelFacts { native_size, factor })?)
    }

    /// Every subject under `spec`, in order.
    pub(crate) fn learn_all(&self, spec: &TrainSpec) -> Result<Vec<Learned>, AnyError> {
        let learn = |subject| Ok(train(&Lesson::new(&self.model, subject, spec)?, None, &mut ())?);
        self.subjects.iter().map(|(_, subject)| learn(subject)).collect()
    }
}

fn subject(model: &BaseModel, folder: &Path) -> Result<Subject, AnyError> {
    let photos = sorted(folder)?
        .iter()
        .map(|path| Ok(Photo::decode(&path.to_string_lossy(), &std::fs::read(path)?, None, model.native_size())?))
        .collect::<Result<Vec<_>, AnyError>>()?;
    let latents = Latents::encode(model, &photos, false, &Device::Cpu)?;
    Ok(Subject { latents, init: INIT.to_owned(), token: TOKEN.to_owned() })
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>, AnyError> {
    let entries = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = entries.collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}
