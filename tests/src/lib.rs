//! What the end-to-end tests stand on: a real `likeness up` in a process of its own, driven through its command line.

pub mod bad_pictures;
mod collector;
mod desk;
mod faulty_http;
mod fleet;
mod invariants;
mod losses;
mod pictures;
mod proxy;
mod sandbox;
mod trainer;
mod upload;

pub use collector::{Collector, Span};
pub use desk::Desk;
pub use faulty_http::{Fault, FaultyHttp};
pub use fleet::{Fleet, Role};
pub use invariants::{Contents, Invariants, is_visible};
pub use losses::losses;
pub use pictures::{avatars, bundled_photos, photo_folder, pixels};
pub use proxy::Proxy;
pub use sandbox::{Ran, Sandbox, Watch};
pub use trainer::Trainer;
pub use upload::half_an_upload;
