use std::fs;
use std::path::{Path, PathBuf};

/// The photos of a bundled subject, such as `subject-01`.
pub fn bundled_photos(subject: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/avatar-tiny/subjects").join(subject)
}

/// A folder under `parent` with the first `count` photos of a bundled subject.
pub fn photo_folder(parent: &Path, subject: &str, count: usize) -> PathBuf {
    let folder = parent.join(subject);
    fs::create_dir_all(&folder).expect("a folder");
    for n in 1..=count {
        let name = format!("{n:02}.png");
        fs::copy(bundled_photos(subject).join(&name), folder.join(&name)).expect("a bundled photo");
    }
    folder
}

/// The pixels of a picture. Files differ by the job that they name.
pub fn pixels(picture: &[u8]) -> Vec<u8> {
    image::load_from_memory(picture).expect("a picture").into_rgb8().into_raw()
}

/// Every avatar of a fetched job by its path in the folder, sorted, with its bytes.
pub fn avatars(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    collect(folder, folder, &mut found);
    found.sort();
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.components().any(|part| part.as_os_str() == "avatars") {
            let name = path.strip_prefix(root).expect("under the root").to_path_buf();
            found.push((name, fs::read(&path).expect("a file")));
        }
    }
}
