//! Where everything stands on a contact sheet. Pure arithmetic in pixels; knows no pictures.

/// Between the sheet's edge and its contents.
pub(super) const MARGIN: u32 = 40;
/// Height of a section's heading.
pub(super) const HEADING: u32 = 30;
/// Height of a caption's line.
pub(super) const CAPTION_LINE: u32 = 17;
/// Height of the line that names the seed.
pub(super) const SEED_LINE: u32 = 15;
/// Pictures beyond these are counted in the heading but not shown: the sheet stays below 100 megapixels.
const PHOTOS_AT_MOST: usize = 100;
const AVATARS_AT_MOST: usize = 600;

const AVATAR_GAP: u32 = 20;
const PHOTO_GAP: u32 = 12;
const BELOW_HEADING: u32 = 12;
const ABOVE_CAPTION: u32 = 8;
const BETWEEN_ROWS: u32 = 22;
const BETWEEN_SECTIONS: u32 = 34;
/// Sides that photos may be shown at.
const PHOTO_SIDES: std::ops::RangeInclusive<u32> = 96..=176;

/// A part of the sheet, pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rect {
    pub(super) x: u32,
    pub(super) y: u32,
    pub(super) width: u32,
    pub(super) height: u32,
}

/// The grids, as the numbers of pictures alone decide them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Photos shown.
    pub(super) photos: usize,
    /// Avatars shown.
    pub(super) avatars: usize,
    /// Side of the square that photos are cropped to.
    pub(super) photo_side: u32,
    /// Side of the square that avatars fit into.
    pub(super) avatar_side: u32,
    photo_columns: usize,
    avatar_columns: usize,
    content_width: u32,
}

/// Where an avatar and what is said about it stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) picture: Rect,
    pub(super) caption: Rect,
    pub(super) seed: Rect,
}

/// The whole sheet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) photo_heading: Rect,
    pub(super) photos: Vec<Rect>,
    /// The line between the sections.
    pub(super) rule: Rect,
    pub(super) avatar_heading: Rect,
    pub(super) avatars: Vec<Cell>,
}

impl Plan {
    /// Grids for so many photos and avatars.
    pub(super) fn new(photos: usize, avatars: usize) -> Self {
        let (photos, avatars) = (photos.min(PHOTOS_AT_MOST), avatars.min(AVATARS_AT_MOST));
        let avatar_side = match avatars {
            0..=100 => 256,
            101..=240 => 192,
            _ => 128,
        };
        let avatar_columns = avatar_columns(avatars);
        // Room for headings and captions even over a single avatar.
        let content_width = span(avatar_columns.max(2), avatar_side, AVATAR_GAP);
        let (photo_columns, photo_side) = photo_grid(photos, content_width);
        Self { photos, avatars, photo_side, avatar_side, photo_columns, avatar_columns, content_width }
    }
}

/// A little wider than high, and with as few holes in the last row as possible.
fn avatar_columns(count: usize) -> usize {
    let near = (count as f64 * 1.5).sqrt().ceil() as usize;
    let candidates = near.saturating_sub(2).max(3)..=near + 1;
    let best = candidates.min_by_key(|&columns| (holes(count, columns), columns.abs_diff(near)));
    best.unwrap_or(near).min(count).max(1)
}

/// Columns and side; a single row where all photos fit into one.
fn photo_grid(count: usize, width: u32) -> (usize, u32) {
    let columns = |side: u32| ((width + PHOTO_GAP) / (side + PHOTO_GAP)) as usize;
    let (fewest, most) = (columns(*PHOTO_SIDES.end()), columns(*PHOTO_SIDES.start()));
    if count <= fewest {
        return (count.max(1), *PHOTO_SIDES.end());
    }
    let best = (fewest + 1..=most).min_by_key(|&columns| (count.div_ceil(columns), holes(count, columns)));
    let columns = best.unwrap_or(fewest);
    let gaps = (columns as u32 - 1) * PHOTO_GAP;
    (columns, (width - gaps) / columns as u32)
}

fn holes(count: usize, columns: usize) -> usize {
    count.div_ceil(columns) * columns - count
}

/// Length of `count` things of `side` with gaps between them.
fn span(count: usize, side: u32, gap: u32) -> u32 {
    let count = count as u32;
    count * side + count.saturating_sub(1) * gap
}

impl Layout {
    /// Places everything; avatars are `picture_height` high, their captions have `caption_lines`.
    pub(super) fn new(plan: &Plan, picture_height: u32, caption_lines: usize) -> Self {
        let width = plan.content_width + 2 * MARGIN;
        let across = |y, height| Rect { x: MARGIN, y, width: plan.content_width, height };

        let photo_heading = across(MARGIN, HEADING);
        let photos_top = photo_heading.bottom() + BELOW_HEADING;
        let photos: Vec<Rect> = (0..plan.photos).map(|index| photo(plan, photos_top, index)).collect();

        let photos_bottom = photos.last().map_or(photos_top, Rect::bottom);
        let rule = across(photos_bottom + BETWEEN_SECTIONS, 1);
        let avatar_heading = across(rule.bottom() + BETWEEN_SECTIONS - 10, HEADING);
        let avatars_top = avatar_heading.bottom() + BELOW_HEADING;
        let cell = |index| cell(plan, avatars_top, index, picture_height, caption_lines as u32 * CAPTION_LINE);
        let avatars: Vec<Cell> = (0..plan.avatars).map(cell).collect();

        let bottom = avatars.last().map_or(avatars_top, |cell| cell.seed.bottom());
        Self { width, height: bottom + MARGIN, photo_heading, photos, rule, avatar_heading, avatars }
    }
}

fn photo(plan: &Plan, top: u32, index: usize) -> Rect {
    let (column, row) = ((index % plan.photo_columns) as u32, (index / plan.photo_columns) as u32);
    let pitch = plan.photo_side + PHOTO_GAP;
    Rect { x: MARGIN + column * pitch, y: top + row * pitch, width: plan.photo_side, height: plan.photo_side }
}

fn cell(plan: &Plan, top: u32, index: usize, picture_height: u32, caption_height: u32) -> Cell {
    let (column, row) = ((index % plan.avatar_columns) as u32, (index / plan.avatar_columns) as u32);
    let height = picture_height + ABOVE_CAPTION + caption_height + SEED_LINE;
    let x = MARGIN + column * (plan.avatar_side + AVATAR_GAP);
    let at = |y, height| Rect { x, y, width: plan.avatar_side, height };

    let picture = at(top + row * (height + BETWEEN_ROWS), picture_height);
    let caption = at(picture.bottom() + ABOVE_CAPTION, caption_height);
    let seed = at(caption.bottom(), SEED_LINE);
    Cell { picture, caption, seed }
}

impl Rect {
    /// The first row below it.
    pub(super) fn bottom(&self) -> u32 {
        self.y + self.height
    }
}

#[cfg(test)]
mod tests;
