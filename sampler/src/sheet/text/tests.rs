use proptest::prelude::*;

use super::*;

fn face() -> Face {
    Face::regular(16.0).unwrap()
}

#[test]
fn a_short_caption_stays_on_one_line() {
    assert_eq!(face().wrap("a photo of subject", 256.0, 3), ["a photo of subject"]);
}

#[test]
fn a_long_caption_wraps_between_words() {
    let lines = face().wrap("a black and white photo of subject wearing glasses on a red background", 256.0, 3);

    assert_eq!(lines.join(" "), "a black and white photo of subject wearing glasses on a red background");
    assert!(lines.len() > 1);
}

#[test]
fn what_does_not_fit_ends_in_an_ellipsis() {
    let lines = face().wrap(&"word ".repeat(100), 256.0, 3);

    assert_eq!(lines.len(), 3);
    assert!(lines[2].ends_with("word…"), "{lines:?}");
}

#[test]
fn a_word_wider_than_the_line_is_broken() {
    assert!(face().wrap(&"x".repeat(100), 100.0, 20).len() > 1);
}

#[test]
fn latin_greek_and_cyrillic_have_glyphs() {
    let face = face();
    for letter in "Größe, naïve façade; Ελληνικά; Кириллица; Łódź; „…“ – № €".chars()
    {
        assert_ne!(face.font.glyph_id(letter).0, 0, "{letter}");
    }
}

proptest! {
    #[test]
    fn any_text_fits_its_lines_and_can_be_drawn(text in any::<String>(), lines in 1_usize..4) {
        let face = face();
        let wrapped = face.wrap(&text, 120.0, lines);

        prop_assert!(wrapped.len() <= lines);
        let mut canvas = Canvas::new(140, 80, Colour([255, 255, 255]));
        for line in wrapped {
            prop_assert!(face.width(&line) <= 120.0, "{line:?}");
            face.draw(&mut canvas, 10.0, 10.0, &line, Colour([0, 0, 0]));
        }
    }
}
