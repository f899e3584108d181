use super::*;

/// A picture of one colour.
fn plain(width: usize, height: usize, colour: [u8; 3]) -> RgbPixels {
    RgbPixels { width, height, bytes: colour.repeat(width * height) }
}

fn sheet(photos: usize, avatars: usize, size: usize) -> RgbPixels {
    let mut sheet = Sheet::new(photos, avatars).unwrap();
    for _ in 0..photos {
        sheet.add_photo(&plain(300, 200, [200, 40, 40])).unwrap();
    }
    for seed in 0..avatars {
        sheet.add_avatar(&plain(size, size, [40, 40, 200]), "a photo of {subject} at the beach", seed as u64).unwrap();
    }
    sheet.paint()
}

fn area(sheet: &RgbPixels, colour: [u8; 3]) -> usize {
    sheet.bytes.chunks_exact(3).filter(|pixel| *pixel == colour).count()
}

#[test]
fn one_photo_and_one_avatar_make_a_sheet() {
    let sheet = sheet(1, 1, 128);

    assert!(area(&sheet, [200, 40, 40]) > 170 * 170, "the photo is shown");
    assert!(area(&sheet, [40, 40, 200]) > 250 * 250, "the small avatar is shown at twice its size");
}

#[test]
fn twenty_photos_and_sixty_four_avatars_make_a_sheet() {
    let sheet = sheet(20, 64, 512);

    assert!(area(&sheet, [40, 40, 200]) > 64 * 250 * 250);
    assert!(sheet.width < 4_000 && sheet.height < 4_000, "{} x {}", sheet.width, sheet.height);
}

#[test]
fn six_hundred_avatars_are_shown_and_more_are_counted() {
    let mut sheet = Sheet::new(1, 601).unwrap();
    assert_eq!(sheet.shown(), (1, 600));
    for seed in 0..601 {
        sheet.add_avatar(&plain(8, 8, [40, 40, 200]), "{subject}", seed).unwrap();
    }
    assert_eq!(sheet.avatars.len(), 600);
    assert_eq!(count(600, 601), "600 of 601");
}

#[test]
fn a_tall_avatar_keeps_its_proportions() {
    let mut sheet = Sheet::new(1, 1).unwrap();
    sheet.add_avatar(&plain(512, 768, [40, 40, 200]), "{subject}", 0).unwrap();

    assert_eq!((sheet.avatars[0].picture.width, sheet.avatars[0].picture.height), (171, 256));
}

#[test]
fn captions_in_other_scripts_and_without_glyphs_are_drawn() {
    for prompt in ["портрет {subject} в лесу", "πορτρέτο {subject}", "{subject}の肖像", "{subject} 🎉\u{200d}\u{7}", ""]
    {
        let mut sheet = Sheet::new(0, 1).unwrap();
        sheet.add_avatar(&plain(64, 64, [40, 40, 200]), prompt, u64::MAX).unwrap();
        sheet.paint();
    }
}

#[test]
fn the_subjects_slot_is_shown_as_a_word() {
    let mut sheet = Sheet::new(0, 1).unwrap();
    sheet.add_avatar(&plain(64, 64, [0; 3]), "pixel art of {subject}", 0).unwrap();

    assert_eq!(sheet.avatars[0].caption, ["pixel art of subject"]);
}

#[test]
fn a_picture_whose_bytes_do_not_agree_with_its_size_is_refused() {
    let error = Sheet::new(1, 0).unwrap().add_photo(&RgbPixels { width: 9, ..plain(8, 8, [0; 3]) }).unwrap_err();

    assert_eq!(error.to_string(), "a picture of 9 x 8 pixels cannot have 192 bytes");
}
