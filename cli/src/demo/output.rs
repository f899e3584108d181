//! The demo's folder.

use super::{Report, plot};
use crate::exit::{Exit, Failure};
use crate::files;
use likeness_proto::v1;
use std::fs;
use std::path::{Path, PathBuf};

/// Says that a folder is a demo's, so that the next demo may write over it.
const MARK: &str = ".likeness-demo";
const MARK_TEXT: &[u8] = b"`likeness demo` made this folder and will replace what it made.\n";
const MADE: [&str; 5] = ["avatars.json", "contact-sheet.png", "loss.png", "embedding.safetensors", "report.json"];

/// A folder that the demo may write to.
#[derive(Debug)]
pub(super) struct Output(PathBuf);

impl Output {
    /// Takes a folder that is new, empty, or an earlier demo's; of the latter, removes what that demo made.
    ///
    /// # Errors
    /// [`Exit::Output`] for a folder with other things in it, or one that cannot be written.
    pub(super) fn claim(dir: &Path) -> Result<Self, Failure> {
        files::create_dir(dir)?;
        let unreadable = |error| files::cannot_write(dir, &error);
        let used = fs::read_dir(dir).map_err(unreadable)?.next().is_some();
        if used && !dir.join(MARK).is_file() {
            return Err(Failure::new(
                Exit::Output,
                format!("the folder {} is not empty and no demo made it; name another with --out", dir.display()),
            ));
        }
        files::write(&dir.join(MARK), MARK_TEXT)?;
        clear(dir).map_err(unreadable)?;
        Ok(Self(dir.to_owned()))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.0
    }

    pub(super) fn write_plot(&self, curve: &v1::LossCurve) -> Result<(), Failure> {
        files::write(&self.0.join("loss.png"), &plot(curve)?)
    }

    pub(super) fn write_report(&self, report: &Report) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(report).map_err(Failure::unexpected)?;
        files::write(&self.0.join("report.json"), format!("{text}\n").as_bytes())
    }
}

/// Removes what an earlier demo made, and nothing else.
fn clear(dir: &Path) -> std::io::Result<()> {
    for path in MADE.map(|name| dir.join(name)).into_iter().filter(|path| path.is_file()) {
        fs::remove_file(path)?;
    }
    let avatars = dir.join("avatars");
    if avatars.is_dir() {
        for entry in fs::read_dir(avatars)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "png") {
                fs::remove_file(path)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_other_things_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
        let failure = Output::claim(dir.path()).unwrap_err();
        assert_eq!(failure.exit, Exit::Output);
        assert!(failure.message.contains("--out"), "{failure}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_earlier_demos_folder_is_taken_again_without_its_results() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("demo");
        Output::claim(&out).unwrap();
        fs::create_dir(out.join("avatars")).unwrap();
        for name in ["avatars/001.png", "report.json", "notes.txt"] {
            fs::write(out.join(name), "").unwrap();
        }
        Output::claim(&out).unwrap();
        assert!(!out.join("avatars/001.png").exists() && !out.join("report.json").exists());
        assert!(out.join("notes.txt").exists(), "what somebody else put there stays");
    }
}
