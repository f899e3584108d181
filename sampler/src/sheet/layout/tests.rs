use proptest::prelude::*;

use super::*;

fn rects(layout: &Layout) -> Vec<Rect> {
    let headings = [layout.photo_heading, layout.rule, layout.avatar_heading];
    let cells = layout.avatars.iter().flat_map(|cell| [cell.picture, cell.caption, cell.seed]);
    headings.into_iter().chain(layout.photos.iter().copied()).chain(cells).collect()
}

fn overlap(a: &Rect, b: &Rect) -> bool {
    a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.bottom() && b.y < a.bottom()
}

proptest! {
    #[test]
    fn everything_stands_within_the_margins_and_nothing_overlaps(
        photos in 0_usize..130, avatars in 0_usize..700, height in 32_u32..=256, lines in 1_usize..=3,
    ) {
        let layout = Layout::new(&Plan::new(photos, avatars), height, lines);
        let rects = rects(&layout);

        for (index, rect) in rects.iter().enumerate() {
            prop_assert!(rect.width > 0 && rect.height > 0);
            prop_assert!(rect.x >= MARGIN && rect.x + rect.width + MARGIN <= layout.width, "{rect:?}");
            prop_assert!(rect.y >= MARGIN && rect.bottom() + MARGIN <= layout.height, "{rect:?}");
            for other in &rects[index + 1..] {
                prop_assert!(!overlap(rect, other), "{rect:?} {other:?}");
            }
        }
    }

    #[test]
    fn every_picture_has_a_place_up_to_the_limits_and_the_sheet_stays_below_100_megapixels(
        photos in 0_usize..5_000, avatars in 0_usize..5_000,
    ) {
        let layout = Layout::new(&Plan::new(photos, avatars), 256, 3);

        prop_assert_eq!(layout.photos.len(), photos.min(PHOTOS_AT_MOST));
        prop_assert_eq!(layout.avatars.len(), avatars.min(AVATARS_AT_MOST));
        prop_assert!(u64::from(layout.width) * u64::from(layout.height) < 100_000_000);
    }
}

#[test]
fn eight_photos_stand_in_one_row_over_two_rows_of_four_avatars() {
    let layout = Layout::new(&Plan::new(8, 8), 256, 2);

    assert!(layout.photos.iter().all(|photo| photo.y == layout.photos[0].y));
    let top = layout.avatars[0].picture.y;
    assert_eq!(layout.avatars.iter().filter(|cell| cell.picture.y == top).count(), 4);
}

#[test]
fn the_last_row_of_avatars_is_full_where_a_near_number_of_columns_allows_it() {
    for (count, columns) in [(8, 4), (9, 3), (12, 4), (16, 4), (20, 5), (64, 8), (150, 15)] {
        assert_eq!(avatar_columns(count), columns, "{count} avatars");
    }
}
