use std::collections::HashMap;
use std::fs;

use serde::Deserialize;

use super::*;
use crate::golden;

/// One model of `tests/golden/tokens.json`, made by transformers' `CLIPTokenizerFast`.
#[derive(Deserialize)]
struct Golden {
    pad: u32,
    plain: Vec<Plain>,
    placeholder: Vec<Placed>,
}

#[derive(Deserialize)]
struct Plain {
    text: String,
    ids: Vec<u32>,
    phrase: Vec<u32>,
}

#[derive(Deserialize)]
struct Placed {
    text: String,
    vectors: usize,
    ids: Vec<u32>,
    slots: Vec<[usize; 2]>,
}

impl Golden {
    fn padded(&self, ids: &[u32]) -> Vec<u32> {
        let mut ids = ids.to_vec();
        ids.resize(77, self.pad);
        ids
    }
}

fn goldens() -> impl Iterator<Item = (Tokenizer, Golden)> {
    let all: HashMap<String, Golden> = golden::json("tokens");
    assert_eq!(all.len(), 3);
    all.into_iter().map(|(name, golden)| (Tokenizer::load(&golden::model(&name).join("tokenizer")).unwrap(), golden))
}

fn avatar_tiny() -> Tokenizer {
    Tokenizer::load(&golden::model("avatar-tiny").join("tokenizer")).unwrap()
}

fn subject(vectors: usize) -> Placeholder {
    Placeholder { token: "<subject>".to_owned(), vectors }
}

#[test]
fn any_text_has_the_ids_of_transformers() {
    for (tokenizer, golden) in goldens() {
        for Plain { text, ids, phrase } in &golden.plain {
            let prompt = tokenizer.encode(text, None).unwrap();
            assert_eq!(prompt.ids, golden.padded(ids), "{text:?}");
            assert_eq!(tokenizer.phrase(text), *phrase, "{text:?}");
            assert_eq!(prompt.cut.is_some(), phrase.len() > 75, "{text:?}");
            assert!(prompt.slots.is_empty());
        }
    }
}

#[test]
fn a_placeholder_becomes_the_slots_of_transformers_added_tokens() {
    for (tokenizer, golden) in goldens() {
        for Placed { text, vectors, ids, slots } in &golden.placeholder {
            let prompt = tokenizer.encode(text, Some(&subject(*vectors))).unwrap();
            let found: Vec<[usize; 2]> = prompt.slots.iter().map(|slot| [slot.position, slot.vector]).collect();
            assert_eq!(found, *slots, "{text:?}");
            assert_eq!(prompt.ids, golden.padded(ids), "{text:?}");
        }
    }
}

#[test]
fn text_that_does_not_fit_is_told() {
    let words = "photo ".repeat(74);
    let prompt = avatar_tiny().encode(&format!("{words}of a person, at the beach"), None).unwrap();
    assert_eq!(prompt.cut.as_deref(), Some("a person, at the beach"));
    assert_eq!(avatar_tiny().encode(&format!("{words}of"), None).unwrap().cut, None);
}

#[test]
fn the_cut_is_told_behind_a_placeholder_and_inside_a_letter() {
    let text = format!("<subject> {}é{}", "photo ".repeat(73), "é".repeat(20));
    let cut = avatar_tiny().encode(&text, Some(&subject(1))).unwrap().cut.unwrap();
    assert!(text.ends_with(&cut) && cut.starts_with('é'), "{cut}");
}

#[test]
fn a_placeholder_that_is_cut_off_is_an_error_that_names_it() {
    let tokenizer = avatar_tiny();
    let fits = format!("{}<subject>", "photo ".repeat(72));
    assert_eq!(tokenizer.encode(&fits, Some(&subject(3))).unwrap().slots.len(), 3);
    for (words, vectors) in [(73, 3), (75, 1), (90, 2)] {
        let text = format!("{}<subject>", "photo ".repeat(words));
        let error = tokenizer.encode(&text, Some(&subject(vectors))).unwrap_err();
        assert_eq!(
            error,
            TokenizeError::PlaceholderCut { token: "<subject>".to_owned(), end: words + vectors, room: 75 }
        );
    }
    let twice = format!("<subject> {} <subject>", "photo ".repeat(75));
    assert!(tokenizer.encode(&twice, Some(&subject(1))).unwrap_err().to_string().contains("<subject>"));
}

#[test]
fn a_placeholder_without_name_or_vectors_is_refused() {
    for (token, vectors) in [("", 1), (" ", 1), ("<subject>", 0), ("<subject>", 76)] {
        let placeholder = Placeholder { token: token.to_owned(), vectors };
        let error = avatar_tiny().encode("a photo", Some(&placeholder)).unwrap_err();
        assert!(matches!(error, TokenizeError::BadPlaceholder { .. }), "{error}");
    }
}

/// avatar-tiny's tokenizer with one file changed.
fn broken(file: &str, content: Option<&str>) -> LoadError {
    let dir = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"] {
        fs::copy(golden::model("avatar-tiny").join("tokenizer").join(name), dir.path().join(name)).unwrap();
    }
    match content {
        Some(content) => fs::write(dir.path().join(file), content).unwrap(),
        None => fs::remove_file(dir.path().join(file)).unwrap(),
    }
    Tokenizer::load(dir.path()).unwrap_err()
}

#[test]
fn a_broken_file_is_named() {
    let cases = [
        ("vocab.json", None, "vocab.json"),
        ("merges.txt", None, "merges.txt"),
        ("vocab.json", Some("{\"a\": -1}"), "vocab.json"),
        ("vocab.json", Some("{\"a\": 1}"), "<|startoftext|>"),
        ("merges.txt", Some("#version: 0.2\ni n\nqqq zzz\n"), "line 3, \"qqq zzz\""),
        ("merges.txt", Some("#version: 0.2\nin\n"), "line 2, \"in\""),
        ("tokenizer_config.json", Some("{"), "tokenizer_config.json"),
        ("special_tokens_map.json", Some("{\"pad_token\": \"<pad>\"}"), "\"<pad>\""),
    ];
    for (file, content, told) in cases {
        let error = broken(file, content).to_string();
        assert!(error.contains(told), "{error} should tell {told}");
    }
}
