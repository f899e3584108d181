//! The bundled base model, its subjects and its prompts.

use crate::exit::{Exit, Failure};
use std::path::{Path, PathBuf};

const BUNDLED: &str = "models/avatar-tiny";
/// Where this program was built.
const SOURCE: &str = env!("CARGO_MANIFEST_DIR");

/// The folder of the bundled model.
#[derive(Clone, Debug)]
pub struct Bundle(PathBuf);

impl Bundle {
    /// Looks from the working directory, the executable and the source folder upwards.
    ///
    /// # Errors
    /// [`Exit::Model`] when it is nowhere.
    pub fn find() -> Result<Self, Failure> {
        let starts = [std::env::current_dir().ok(), std::env::current_exe().ok(), Some(PathBuf::from(SOURCE))];
        starts.into_iter().flatten().find_map(|start| upwards(&start)).map(Self).ok_or_else(|| {
            Failure::new(
                Exit::Model,
                format!("the bundled model {BUNDLED} is neither above the working directory nor above the program; name a model with --model"),
            )
        })
    }

    /// The model's directory.
    #[must_use]
    pub fn model(&self) -> &Path {
        &self.0
    }

    /// The prompts that the model understands.
    #[must_use]
    pub fn prompts(&self) -> PathBuf {
        self.0.join("prompts.toml")
    }

    /// Folder with a folder of photos for each bundled subject.
    #[must_use]
    pub fn subjects(&self) -> PathBuf {
        self.0.join("subjects")
    }
}

/// The model directory to load: the one that is set, else the bundled one.
///
/// # Errors
/// As [`Bundle::find`].
pub fn model_dir(set: Option<&Path>) -> Result<PathBuf, Failure> {
    set.map_or_else(|| Bundle::find().map(|bundle| bundle.0), |path| Ok(path.to_owned()))
}

fn upwards(start: &Path) -> Option<PathBuf> {
    start.ancestors().map(|folder| folder.join(BUNDLED)).find(|model| model.join("model_index.json").is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_model_is_found_from_anywhere_inside_the_project() {
        let bundle = Bundle::find().unwrap();
        assert!(bundle.model().join("unet").is_dir() && bundle.subjects().is_dir());
        assert_eq!(upwards(Path::new("/")), None);
    }

    #[test]
    fn a_model_that_is_set_wins() {
        assert_eq!(model_dir(Some(Path::new("sd15"))).unwrap(), PathBuf::from("sd15"));
    }
}
