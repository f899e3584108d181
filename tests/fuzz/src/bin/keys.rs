//! What stands behind `authorization: Bearer`, taken for an API key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use likeness_coordinator::fuzzing::key_prefix;

fuzz_target!(|data: &[u8]| {
    let Ok(token) = std::str::from_utf8(data) else { return };
    let Some(prefix) = key_prefix(token) else { return };
    assert!(prefix.starts_with("lk") && token.starts_with(prefix), "{prefix:?} of {token:?}");
    assert_eq!(token.len(), prefix.len() + 1 + 64, "{token:?} has no 256-bit secret");
});
