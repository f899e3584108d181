//! The sentences that a subject is learned in: everyday captions that say nothing of the scene, after the templates of
//! textual inversion (arXiv 2208.01618, from CLIP's), without articles, because `{subject}` stands where a name would.

use likeness_proto::Templates;

const OBJECT: &[&str] = &[
    "a photo of {subject}",
    "a rendition of {subject}",
    "a picture of {subject}",
    "a good photo of {subject}",
    "a close photo of {subject}",
    "a cropped photo of {subject}",
    "a nice photo of {subject}",
    "the photo of {subject}",
    "a rendering of {subject}",
    "a depiction of {subject}",
    "an illustration of {subject}",
];

const PORTRAIT: &[&str] = &[
    "a photo of {subject}",
    "a portrait of {subject}",
    "a picture of {subject}",
    "an avatar of {subject}",
    "a good photo of {subject}",
    "a close photo of {subject}",
    "a cropped photo of {subject}",
    "a nice photo of {subject}",
    "the photo of {subject}",
    "a depiction of {subject}",
];

/// The sentences of a set; each holds `{subject}`, the first is the plainest and the one that is evaluated on.
#[must_use]
pub fn sentences(templates: Templates) -> &'static [&'static str] {
    match templates {
        Templates::Object => OBJECT,
        Templates::Portrait => PORTRAIT,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use likeness_proto::SUBJECT_SLOT;

    use super::*;

    #[test]
    fn every_sentence_names_the_subject_once_and_stands_once() {
        for &set in Templates::ALL {
            let all = sentences(set);
            assert!(all.iter().all(|sentence| sentence.matches(SUBJECT_SLOT).count() == 1), "{set}");
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{set}");
        }
    }
}
