//! Tokens of an identity provider and the keys that it lists: first the list, up to a zero, then the token.
#![no_main]

use libfuzzer_sys::fuzz_target;
use likeness_coordinator::fuzzing::{opened, signed};

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (list, token) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let Ok(token) = std::str::from_utf8(token) else { return };
    let _holds = signed(list, token);
    if let Some((tenant, beyond_people)) = opened(token, "https://idp.example", "likeness") {
        assert!(tenant.is_some() && !beyond_people, "a provider knows people of tenants, nobody else");
    }
});
