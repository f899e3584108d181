//! A safetensors file of seeded random values, written as they are made.

use super::layout::{Fill, Tensor};
use clap::ValueEnum;
use half::f16;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::io::{self, Write};

/// How a number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// Two bytes.
    Fp16,
    /// Four bytes.
    Fp32,
}

/// Values made at a time, and by one thread at a time.
const BLOCK: usize = 1 << 22;
const PIECE: usize = 1 << 16;

impl Precision {
    fn bytes(self) -> usize {
        match self {
            Self::Fp16 => 2,
            Self::Fp32 => 4,
        }
    }

    /// As the header of a safetensors file calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Fp16 => "F16",
            Self::Fp32 => "F32",
        }
    }

    fn store(self, value: f32, bytes: &mut [u8]) {
        match self {
            Self::Fp16 => bytes.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
            Self::Fp32 => bytes.copy_from_slice(&value.to_le_bytes()),
        }
    }
}

/// Writes `tensors` as a safetensors file. A value is a function of the seed, its tensor's name and its place: the same bytes
/// whatever the number of threads.
pub(super) fn write(out: &mut dyn Write, tensors: &[Tensor], precision: Precision, seed: u64) -> io::Result<()> {
    let header = header(tensors, precision);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    let mut block = Vec::new();
    for tensor in tensors {
        let key = key(seed, &tensor.name);
        for start in (0..tensor.elements()).step_by(BLOCK) {
            let count = BLOCK.min(tensor.elements() - start);
            block.resize(count * precision.bytes(), 0);
            let pieces = block.par_chunks_mut(PIECE * precision.bytes()).enumerate();
            pieces.for_each(|(piece, bytes)| {
                let first = start + piece * PIECE;
                for (place, bytes) in bytes.chunks_exact_mut(precision.bytes()).enumerate() {
                    precision.store(value(tensor.fill, key, (first + place) as u64), bytes);
                }
            });
            out.write_all(&block)?;
        }
    }
    Ok(())
}

/// The JSON that comes first: of each tensor its type, shape and bytes; filled with spaces so that the data is aligned.
fn header(tensors: &[Tensor], precision: Precision) -> String {
    let (mut entries, mut end) = (Map::new(), 0);
    entries.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    for Tensor { name, shape, .. } in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * precision.bytes();
        let entry = json!({ "dtype": precision.name(), "shape": shape, "data_offsets": [start, end] });
        entries.insert(name.clone(), entry);
    }
    let mut text = Value::Object(entries).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    text
}

/// Sets a tensor's values apart from those of others: FNV-1a of its name, mixed with the seed.
fn key(seed: u64, name: &str) -> u64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    mix(hash ^ mix(seed))
}

/// Uniform, so that no value is far out: ±√3 standard deviations at most.
fn value(fill: Fill, key: u64, place: u64) -> f32 {
    match fill {
        Fill::Constant(value) => value,
        Fill::Spread(deviation) => {
            let unit = (mix(key.wrapping_add(place)) >> 40) as f32 / (1 << 24) as f32; // [0, 1)
            (2.0 * unit - 1.0) * 3f32.sqrt() * deviation
        }
    }
}

/// SplitMix64: the output of its state `counter` steps from 0 (Steele, Lea and Flood, OOPSLA 2014).
fn mix(counter: u64) -> u64 {
    let z = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(fill: Fill, shape: &[usize]) -> Tensor {
        Tensor { name: "layer.weight".to_owned(), shape: shape.to_vec(), fill }
    }

    fn file(tensors: &[Tensor], precision: Precision, seed: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, tensors, precision, seed).unwrap();
        bytes
    }

    #[test]
    fn the_generator_is_splitmix64() {
        // First outputs of the generator seeded with 0, as published with it.
        assert_eq!([0, 1, 2].map(mix), [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }

    #[test]
    fn random_values_have_the_deviation_that_is_asked_for() {
        let values: Vec<f64> = (0..200_000).map(|place| f64::from(value(Fill::Spread(0.5), 7, place))).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let deviation = (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt();
        assert!(mean.abs() < 0.005 && (deviation - 0.5).abs() < 0.005, "{mean} {deviation}");
    }

    #[test]
    fn the_file_is_read_back_as_it_was_meant() {
        let tensors = [
            tensor(Fill::Spread(1.0), &[3, 5]),
            Tensor { name: "layer.bias".to_owned(), ..tensor(Fill::Constant(1.0), &[3]) },
        ];
        for (precision, bits) in [(Precision::Fp16, 16), (Precision::Fp32, 32)] {
            let bytes = file(&tensors, precision, 0);
            let read = candle_core::safetensors::load_buffer(&bytes, &candle_core::Device::Cpu).unwrap();
            assert_eq!((read.len(), read["layer.weight"].dims()), (2, &[3usize, 5][..]));
            assert_eq!(read["layer.weight"].dtype().size_in_bytes() * 8, bits);
            let bias = read["layer.bias"].to_dtype(candle_core::DType::F32).unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(bias, [1.0; 3]);
        }
    }

    #[test]
    fn a_value_depends_on_seed_name_and_place_alone() {
        let long = tensor(Fill::Spread(1.0), &[3 * PIECE + 5]);
        let bytes = file(std::slice::from_ref(&long), Precision::Fp32, 3);
        assert_eq!(bytes, file(std::slice::from_ref(&long), Precision::Fp32, 3));
        assert_ne!(bytes, file(std::slice::from_ref(&long), Precision::Fp32, 4));
        let values: Vec<&[u8]> = bytes[bytes.len() - 4 * long.elements()..].chunks(4).collect();
        let expected = |place: usize| value(long.fill, key(3, &long.name), place as u64).to_le_bytes();
        for place in [0, 1, PIECE - 1, PIECE, 3 * PIECE + 4] {
            assert_eq!(values[place], expected(place), "{place}");
        }
        assert_ne!(key(3, "layer.weight"), key(3, "layer.bias"));
    }
}
