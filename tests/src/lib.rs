//! What the end-to-end tests stand on: a real `likeness up` in a process of its own, driven through its command line.

pub mod bad_pictures;
mod pictures;
mod sandbox;
mod upload;

pub use pictures::{avatars, bundled_photos, photo_folder, pixels};
pub use sandbox::{Ran, Sandbox, Watch};
pub use upload::half_an_upload;
