use std::collections::HashMap;

use candle_core::DType;
use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::*;

fn digest(letter: char) -> ModelDigest {
    format!("sha256:{}", letter.to_string().repeat(64)).parse().unwrap()
}

fn facts() -> Facts {
    Facts {
        base_model: digest('a'),
        base_model_name: "avatar-tiny".to_owned(),
        steps: 125,
        loss: 0.112_25,
        seed: u64::MAX,
        version: "0.1.0".to_owned(),
        init: "a \"person\"\n{}".to_owned(),
    }
}

fn embedding(values: &[f32], width: usize) -> Embedding {
    let rows = Tensor::from_slice(values, (values.len() / width, width), &Device::Cpu).unwrap();
    Embedding { token: "<subject>".to_owned(), rows, facts: Some(facts()) }
}

fn values(embedding: &Embedding) -> Vec<Vec<f32>> {
    embedding.rows.to_vec2().unwrap()
}

fn read(bytes: &[u8]) -> Result<Embedding, EmbeddingError> {
    Embedding::from_bytes(bytes, &Device::Cpu)
}

/// A file as another program might write it.
fn foreign(tensors: &[(&str, Dtype, &[usize], &[u8])], metadata: &[(&str, &str)]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (name.to_string(), TensorView::new(*dtype, shape.to_vec(), data).unwrap()));
    let metadata: HashMap<String, String> = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    safetensors::serialize(views, (!metadata.is_empty()).then_some(metadata)).unwrap()
}

const ONE: [u8; 8] = [0, 0, 128, 63, 0, 0, 128, 63]; // [1.0, 1.0] in f32

#[test]
fn a_file_gives_back_what_was_written() {
    let written = embedding(&[0.5, -0.25, 1e-20, 3.0], 2);
    let read = read(&written.to_bytes().unwrap()).unwrap();
    assert_eq!(values(&read), [[0.5, -0.25], [1e-20, 3.0]]);
    assert_eq!((read.token.as_str(), read.vectors(), read.facts), ("<subject>", 2, Some(facts())));
}

#[test]
fn the_bytes_never_change() {
    let bytes = embedding(&[1.0, -1.0], 2).to_bytes().unwrap();
    let header = concat!(
        r#"{"__metadata__":{"base_model":"sha256:"#,
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        r#"","base_model_name":"avatar-tiny","init":"a \"person\"\n{}","likeness_format":"1","likeness_version":"0.1.0","#,
        r#""loss":"0.11225","seed":"18446744073709551615","steps":"125","token":"<subject>","vectors":"1"},"#,
        r#""<subject>":{"dtype":"F32","shape":[1, 2],"data_offsets":[0, 8]}}"#
    );
    assert_eq!(bytes.len() % 8, 0);
    assert_eq!(std::str::from_utf8(&bytes[8..bytes.len() - 8]).unwrap().trim_end(), header);
    assert_eq!(bytes[bytes.len() - 8..], [0, 0, 128, 63, 0, 0, 128, 191]);
}

#[test]
fn other_programs_find_exactly_one_tensor_named_by_the_token() {
    let bytes = embedding(&[1.0, 2.0, 3.0, 4.0], 2).to_bytes().unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.names(), ["<subject>"]);
    let view = tensors.tensor("<subject>").unwrap();
    assert_eq!((view.dtype(), view.shape()), (Dtype::F32, [2, 2].as_slice()));
}

#[test]
fn a_file_of_another_program_loads_and_its_base_is_unknown() {
    let halves = half::f16::from_f32(0.5).to_le_bytes().repeat(2);
    let files = [
        foreign(&[("emb_params", Dtype::F32, &[1, 2], &ONE)], &[]),
        foreign(&[("<cat>", Dtype::F32, &[2], &ONE)], &[("format", "pt")]),
        foreign(&[("<cat>", Dtype::F16, &[1, 2], &halves)], &[]),
    ];
    for bytes in files {
        let embedding = read(&bytes).unwrap();
        assert_eq!((embedding.rows.dims(), embedding.rows.dtype()), ([1, 2].as_slice(), DType::F32));
        assert_eq!(embedding.facts, None);
        assert_eq!(embedding.check_base(&digest('b')).unwrap(), Base::Unknown);
        assert_eq!(values(&read(&embedding.to_bytes().unwrap()).unwrap()), values(&embedding));
    }
}

#[test]
fn another_base_model_is_refused_with_both_digests_named() {
    let embedding = embedding(&[1.0, 2.0], 2);
    assert_eq!(embedding.check_base(&digest('a')).unwrap(), Base::Same);
    let error = embedding.check_base(&digest('b')).unwrap_err().to_string();
    assert!(error.contains(digest('a').as_ref()) && error.contains(digest('b').as_ref()), "{error}");
}

#[test]
fn a_file_that_is_no_embedding_says_why() {
    let two = [("clip_g", Dtype::F32, [1, 2].as_slice(), ONE.as_slice()), ("clip_l", Dtype::F32, &[1, 2], &ONE)];
    let nan = [f32::NAN.to_le_bytes(), 1f32.to_le_bytes()].concat();
    let whole = embedding(&[1.0, 2.0], 2).to_bytes().unwrap();
    let cases = [
        (Vec::new(), "safetensors"),
        (b"PK\x03\x04 a pickle of another kind".to_vec(), "safetensors"),
        (whole[..whole.len() - 1].to_vec(), "safetensors"),
        (vec![0; MAX_BYTES + 1], "too many"),
        (foreign(&two, &[]), "has 2: clip_g, clip_l"),
        (foreign(&[], &[]), "has 0"),
        (foreign(&[("<a>", Dtype::I32, &[1, 2], &ONE)], &[]), "I32"),
        (foreign(&[("<a>", Dtype::F32, &[1, 1, 2], &ONE)], &[]), "[1, 1, 2]"),
        (foreign(&[("<a>", Dtype::F32, &[0, 2], &[])], &[]), "[0, 2]"),
        (foreign(&[("<a>", Dtype::F32, &[76, 1], &1f32.to_le_bytes().repeat(76))], &[]), "1 to 75"),
        (foreign(&[("<a>", Dtype::F32, &[2, 1], &nan)], &[]), "row 0"),
        (foreign(&[("a b", Dtype::F32, &[1, 2], &ONE)], &[]), "\"a b\""),
        (foreign(&[("", Dtype::F32, &[1, 2], &ONE)], &[]), "placeholder"),
    ];
    for (bytes, told) in cases {
        let error = read(&bytes).unwrap_err().to_string();
        assert!(error.contains(told), "{error} should tell {told}");
    }
}

#[test]
fn a_fact_that_is_missing_or_false_is_named() {
    let all = file::metadata("<a>", 1, &facts());
    let with = |key: &str, value: Option<&str>| {
        let mut pairs: Vec<(&str, &str)> =
            all.iter().map(|(k, v)| (*k, v.as_str())).filter(|(k, _)| *k != key).collect();
        pairs.extend(value.map(|value| (key, value)));
        foreign(&[("<a>", Dtype::F32, &[1, 2], &ONE)], &pairs)
    };
    assert_eq!(read(&with("nothing", None)).unwrap().facts, Some(facts()));
    for &key in all.keys() {
        let error = read(&with(key, None)).unwrap_err();
        assert!(matches!(error, EmbeddingError::Fact { key: named, .. } if named == key), "{key}: {error}");
    }
    let lies = [
        ("token", "<b>"),
        ("vectors", "2"),
        ("base_model", "sd15"),
        ("steps", "-1"),
        ("loss", "NaN"),
        ("likeness_format", "2"),
    ];
    for (key, value) in lies {
        let error = read(&with(key, Some(value))).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(value), "{error}");
    }
}

#[test]
fn what_could_not_be_read_is_not_written() {
    let good = embedding(&[1.0, 2.0], 2);
    let bad_facts = Embedding { facts: Some(Facts { loss: f32::NAN, ..facts() }), ..good.clone() };
    let bad_token = Embedding { token: "two words".to_owned(), ..good.clone() };
    let bad_rows = embedding(&[1.0, f32::INFINITY], 1);
    assert!(matches!(bad_facts.to_bytes(), Err(EmbeddingError::Fact { key: "loss", .. })));
    assert!(matches!(bad_token.to_bytes(), Err(EmbeddingError::Token { .. })));
    assert!(matches!(bad_rows.to_bytes(), Err(EmbeddingError::NotFinite { row: 1, .. })));
}

proptest! {
    #[test]
    fn every_embedding_survives_the_round_trip(
        token in "[^\\s\\p{C}]{1,32}",
        rows in (1usize..4, 1usize..9).prop_flat_map(|(n, d)| {
            prop::collection::vec(prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO, d), n)
        }),
        (name, init) in (".*", ".*"),
        (steps, seed, loss) in (any::<u64>(), any::<u64>(), prop::num::f32::NORMAL),
    ) {
        let facts = Facts { base_model_name: name, init, steps, seed, loss, ..facts() };
        let tensor = Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len()), &Device::Cpu).unwrap();
        let written = Embedding { token: token.clone(), rows: tensor, facts: Some(facts.clone()) };
        let bytes = written.to_bytes().unwrap();
        prop_assert_eq!(&bytes, &written.to_bytes().unwrap());
        let read = read(&bytes).unwrap();
        prop_assert_eq!(values(&read), rows);
        prop_assert_eq!((read.token, read.facts), (token, Some(facts)));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = read(&bytes);
    }

    #[test]
    fn any_header_is_read_without_a_panic(header in "\\{(\"[a_]{0,3}\":\\{\"(dtype|shape|data_offsets)\":[0-9\\[\\],\"F]{0,9}\\},?){0,3}\\}", tail in 0usize..32) {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend(std::iter::repeat_n(0, tail));
        let _ = read(&bytes);
    }

    #[test]
    fn a_damaged_file_is_read_without_a_panic(position in 0usize..600, byte in any::<u8>(), length in 0usize..600) {
        let mut bytes = embedding(&[0.5; 8], 4).to_bytes().unwrap();
        let position = position % bytes.len();
        bytes[position] = byte;
        let _ = read(&bytes);
        bytes.truncate(length);
        let _ = read(&bytes);
    }
}
