//! Finds a subject's photos in a folder.

use crate::exit::{Exit, Failure};
use likeness_proto::{ErrorCode, SUBJECT_SLOT};
use std::fs;
use std::path::{Path, PathBuf};

/// Characters of a caption that are read.
const CAPTION_BYTES: u64 = 10_000;

/// A photo on this disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhotoFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its name without folders.
    pub name: String,
    /// What it shows, from `NAME.txt` beside `NAME.png`; empty: not said.
    pub caption: String,
}

/// The photos of a folder, by name: every file that is neither hidden nor a `.txt`. Sub-folders are left out.
///
/// # Errors
/// [`Exit::Photos`] when the folder or a caption cannot be read, `NO_PHOTOS` when none is in it,
/// `PROMPT_WITHOUT_SUBJECT` for a caption without `{subject}`.
pub fn in_folder(dir: &Path) -> Result<Vec<PhotoFile>, Failure> {
    let mut paths = files(dir)?;
    paths.retain(|path| path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("txt")));
    if paths.is_empty() {
        return Err(Failure::refused(
            ErrorCode::NoPhotos,
            format!("there are no photos in {}; put PNG, JPEG or WebP files there", dir.display()),
        ));
    }
    paths.sort();
    paths.into_iter().map(photo).collect()
}

/// The sub-folders of a dataset, by name: a subject each.
///
/// # Errors
/// [`Exit::Photos`] when the folder cannot be read or holds no folders.
pub fn subjects_in(dataset: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let mut folders: Vec<_> = visible(dataset)?.into_iter().filter(|path| path.is_dir()).collect();
    if folders.is_empty() {
        return Err(Failure::new(
            Exit::Photos,
            format!("there are no folders in {}; a dataset has one for each subject", dataset.display()),
        ));
    }
    folders.sort();
    Ok(folders.into_iter().map(|path| (file_name(&path), path)).collect())
}

fn photo(path: PathBuf) -> Result<PhotoFile, Failure> {
    Ok(PhotoFile { name: file_name(&path), caption: caption(&path.with_extension("txt"))?, path })
}

fn caption(path: &Path) -> Result<String, Failure> {
    if !path.is_file() {
        return Ok(String::new());
    }
    let unreadable = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Photos, format!("cannot read the caption {}: {error}", path.display()))
    };
    let size = fs::metadata(path).map_err(|error| unreadable(&error))?.len();
    if size > CAPTION_BYTES {
        return Err(unreadable(&format!("it has {size} bytes; at most {CAPTION_BYTES} are accepted")));
    }
    let text = fs::read_to_string(path).map_err(|error| unreadable(&error))?.trim().to_owned();
    if text.is_empty() || text.contains(SUBJECT_SLOT) {
        return Ok(text);
    }
    Err(Failure::refused(
        ErrorCode::PromptWithoutSubject,
        format!(
            "the caption {}, `{text}`, does not hold {SUBJECT_SLOT}; put it where the subject stands",
            path.display()
        ),
    ))
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    Ok(visible(dir)?.into_iter().filter(|path| path.is_file()).collect())
}

fn visible(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unreadable =
        |error| Failure::new(Exit::Photos, format!("cannot read the photos folder {}: {error}", dir.display()));
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.retain(|path| !file_name(path).starts_with('.'));
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn photos_are_the_visible_files_by_name_with_their_captions() {
        let dir = folder(&[
            ("b.png", ""),
            ("a.JPG", ""),
            ("a.txt", " {subject} smiling\n"),
            (".hidden", ""),
            ("sub/c.png", ""),
        ]);
        let photos = in_folder(dir.path()).unwrap();
        let seen: Vec<_> = photos.iter().map(|photo| (photo.name.as_str(), photo.caption.as_str())).collect();
        assert_eq!(seen, [("a.JPG", "{subject} smiling"), ("b.png", "")]);
    }

    #[test]
    fn a_file_that_is_no_image_is_sent_so_that_the_server_names_it() {
        let dir = folder(&[("notes.md", "hello")]);
        assert_eq!(in_folder(dir.path()).unwrap()[0].name, "notes.md");
    }

    #[test]
    fn a_folder_without_photos_is_refused() {
        let failure = in_folder(folder(&[("a.txt", "{subject}")]).path()).unwrap_err();
        assert_eq!(failure.exit, Exit::Refused(ErrorCode::NoPhotos));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let failure = in_folder(Path::new("no/such/folder")).unwrap_err();
        assert!(failure.exit == Exit::Photos && failure.message.contains("no/such/folder"), "{failure}");
    }

    #[test]
    fn a_caption_without_the_subject_is_refused() {
        let failure = in_folder(folder(&[("a.png", ""), ("a.txt", "a cat")]).path()).unwrap_err();
        assert_eq!(failure.exit, Exit::Refused(ErrorCode::PromptWithoutSubject));
    }

    #[test]
    fn a_dataset_is_a_folder_for_each_subject() {
        let dir = folder(&[("zoe/1.png", ""), ("ada/1.png", ""), ("readme.md", "")]);
        let names: Vec<_> = subjects_in(dir.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["ada", "zoe"]);
        assert_eq!(subjects_in(&dir.path().join("ada")).unwrap_err().exit, Exit::Photos);
    }
}
