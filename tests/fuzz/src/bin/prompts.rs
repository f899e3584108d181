//! Prompts files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use likeness_cli::prompts_file;
use likeness_proto::{ModelFacts, RenderSpec, SUBJECT_SLOT};

const MODEL: ModelFacts = ModelFacts { native_size: 64, factor: 8 };

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match prompts_file::parse(text) {
        Ok(spec) => {
            assert!(!spec.prompts.is_empty() && spec.prompts.iter().all(|prompt| prompt.text.contains(SUBJECT_SLOT)));
            let _in_range = RenderSpec::resolve(spec, &MODEL);
        }
        Err(failure) => assert!(!failure.to_string().is_empty()),
    }
});
