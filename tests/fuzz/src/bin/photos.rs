//! Files that are sent as photos.
#![no_main]

use libfuzzer_sys::fuzz_target;
use likeness_coordinator::STORED_SIDE;
use likeness_coordinator::fuzzing::photo;

/// Pixels of a picture that is read a second time: more take too long.
const SMALL: u32 = 64 * 64;

fuzz_target!(|file: &[u8]| {
    let Some((stored, width, height)) = photo(file) else { return };
    assert!((1..=STORED_SIDE).contains(&width) && (1..=STORED_SIDE).contains(&height), "{width}x{height}");
    if width * height <= SMALL {
        assert_eq!(photo(&stored), Some((stored, width, height)), "what is stored is read as it is");
    }
});
