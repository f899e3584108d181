//! Embedding files, safetensors, that somebody brings along.
#![no_main]

use libfuzzer_sys::fuzz_target;
use likeness_diffusion::{Device, Embedding, EmbeddingError};

type Rows = Vec<Vec<f32>>;

fn rows(embedding: &Embedding) -> Rows {
    embedding.rows.to_vec2().expect("rows are a matrix of f32")
}

fuzz_target!(|file: &[u8]| {
    let Ok(read) = Embedding::from_bytes(file, &Device::Cpu) else { return };
    let written = match read.to_bytes() {
        Ok(written) => written,
        // Half precision doubles.
        Err(EmbeddingError::TooLarge { .. }) => return,
        Err(error) => panic!("what was read cannot be written: {error}"),
    };
    let again = Embedding::from_bytes(&written, &Device::Cpu).expect("what was written can be read");
    assert_eq!((&again.token, rows(&again), &again.facts), (&read.token, rows(&read), &read.facts));
});
