//! The contact sheet: photos on top, avatars below, each with its prompt.

mod canvas;
mod layout;
mod text;

use image::imageops::{FilterType, crop_imm, resize};
use image::{ImageBuffer, Rgb};
use likeness_diffusion::RgbPixels;
use likeness_proto::SUBJECT_SLOT;

use canvas::{Canvas, Colour};
use layout::{CAPTION_LINE, Layout, Plan, Rect};
use text::Face;

/// The bundled font: DejaVu Sans, Latin, Greek and Cyrillic letters.
pub const FONT: &[u8] = text::REGULAR;

const PAPER: Colour = Colour([250, 249, 246]);
const INK: Colour = Colour([38, 38, 42]);
const CAPTION: Colour = Colour([70, 70, 76]);
const FAINT: Colour = Colour([140, 140, 146]);
const LINE: Colour = Colour([226, 224, 218]);
const CORNER: f32 = 6.0;
const CAPTION_LINES: usize = 3;

/// A contact sheet in the making. Pictures are shrunk as they come, so that hundreds need little memory.
pub struct Sheet {
    plan: Plan,
    /// Photos and avatars there are, shown or not.
    all: [usize; 2],
    faces: Faces,
    photos: Vec<RgbPixels>,
    avatars: Vec<Avatar>,
}

struct Avatar {
    picture: RgbPixels,
    caption: Vec<String>,
    seed: u64,
}

struct Faces {
    heading: Face,
    note: Face,
    caption: Face,
    seed: Face,
}

/// A contact sheet cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SheetError {
    /// A bundled font is damaged.
    #[error("the bundled font cannot be read: {0}")]
    Font(#[from] ab_glyph::InvalidFont),
    /// A picture's size and its bytes do not agree.
    #[error("a picture of {width} x {height} pixels cannot have {bytes} bytes")]
    Pixels {
        /// Pixels.
        width: usize,
        /// Pixels.
        height: usize,
        /// Its length.
        bytes: usize,
    },
}

impl Sheet {
    /// A sheet for so many photos and avatars.
    ///
    /// # Errors
    /// [`SheetError::Font`]
    pub fn new(photos: usize, avatars: usize) -> Result<Self, SheetError> {
        let faces = Faces {
            heading: Face::bold(27.0)?,
            note: Face::regular(17.0)?,
            caption: Face::regular(15.5)?,
            seed: Face::regular(12.5)?,
        };
        let plan = Plan::new(photos, avatars);
        let all = [photos, avatars];
        Ok(Self { plan, all, faces, photos: Vec::new(), avatars: Vec::new() })
    }

    /// Photos and avatars that have a place on the sheet: the first so many. Others need not be added.
    pub fn shown(&self) -> (usize, usize) {
        (self.plan.photos, self.plan.avatars)
    }

    /// Adds the next photo, cropped to its middle square.
    ///
    /// # Errors
    /// [`SheetError::Pixels`]
    pub fn add_photo(&mut self, photo: &RgbPixels) -> Result<(), SheetError> {
        let side = self.plan.photo_side;
        if self.photos.len() < self.plan.photos {
            self.photos.push(shrink(photo, [side, side])?);
        }
        Ok(())
    }

    /// Adds the next avatar; its caption is the prompt, with a word in the subject's place.
    ///
    /// # Errors
    /// [`SheetError::Pixels`]
    pub fn add_avatar(&mut self, avatar: &RgbPixels, prompt: &str, seed: u64) -> Result<(), SheetError> {
        if self.avatars.len() < self.plan.avatars {
            let side = self.plan.avatar_side;
            let picture = shrink(avatar, within(avatar, side))?;
            let words = prompt.replace(SUBJECT_SLOT, "subject");
            let caption = self.faces.caption.wrap(&words, side as f32, CAPTION_LINES);
            self.avatars.push(Avatar { picture, caption, seed });
        }
        Ok(())
    }

    /// The sheet.
    pub fn paint(&self) -> RgbPixels {
        let tallest = self.avatars.iter().map(|avatar| avatar.picture.height as u32).max();
        let lines = self.avatars.iter().map(|avatar| avatar.caption.len()).fold(1, usize::max);
        let layout = Layout::new(&self.plan, tallest.unwrap_or(self.plan.avatar_side), lines);
        let mut canvas = Canvas::new(layout.width, layout.height, PAPER);

        self.heading(&mut canvas, layout.photo_heading, "Photos", &count(self.plan.photos, self.all[0]));
        for (rect, photo) in layout.photos.iter().zip(&self.photos) {
            canvas.place(*rect, photo, CORNER);
        }

        canvas.fill(layout.rule, LINE);
        let note = format!("{}, drawn by a model", count(self.plan.avatars, self.all[1]));
        self.heading(&mut canvas, layout.avatar_heading, "Avatars", &note);
        for (cell, avatar) in layout.avatars.iter().zip(&self.avatars) {
            canvas.place(cell.picture, &avatar.picture, CORNER);
            self.describe(&mut canvas, cell.caption, avatar);
        }
        canvas.into_pixels()
    }

    fn heading(&self, canvas: &mut Canvas, rect: Rect, title: &str, note: &str) {
        let (x, y) = (rect.x as f32, rect.y as f32);
        let end = self.faces.heading.draw(canvas, x, y, title, INK);
        self.faces.note.draw(canvas, end + 10.0, y + 8.0, note, FAINT);
    }

    fn describe(&self, canvas: &mut Canvas, rect: Rect, avatar: &Avatar) {
        let (x, mut y) = (rect.x as f32, rect.y as f32);
        for line in &avatar.caption {
            self.faces.caption.draw(canvas, x, y, line, CAPTION);
            y += CAPTION_LINE as f32;
        }
        self.faces.seed.draw(canvas, x, y + 1.0, &format!("seed {}", avatar.seed), FAINT);
    }
}

fn count(shown: usize, all: usize) -> String {
    if shown == all { all.to_string() } else { format!("{shown} of {all}") }
}

/// The size that fits a picture into a square of `side`.
fn within(picture: &RgbPixels, side: u32) -> [u32; 2] {
    let longest = picture.width.max(picture.height).max(1);
    [picture.width, picture.height].map(|length| ((length * side as usize).div_ceil(longest) as u32).max(1))
}

/// A picture at another size, cropped around its middle where the proportions differ.
fn shrink(picture: &RgbPixels, size: [u32; 2]) -> Result<RgbPixels, SheetError> {
    let misfit = || SheetError::Pixels { width: picture.width, height: picture.height, bytes: picture.bytes.len() };
    if picture.bytes.len() != 3 * picture.width * picture.height || picture.bytes.is_empty() {
        return Err(misfit());
    }
    let (width, height) = (picture.width as u32, picture.height as u32);
    let whole = ImageBuffer::<Rgb<u8>, _>::from_raw(width, height, picture.bytes.as_slice()).ok_or_else(misfit)?;

    let scale = f64::min(f64::from(width) / f64::from(size[0]), f64::from(height) / f64::from(size[1]));
    let [wide, high] = size.map(|side| ((f64::from(side) * scale).round() as u32).max(1));
    let (wide, high) = (wide.min(width), high.min(height));
    let middle = crop_imm(&whole, (width - wide) / 2, (height - high) / 2, wide, high);
    let shrunk = resize(&*middle, size[0], size[1], FilterType::Lanczos3);
    Ok(RgbPixels { width: size[0] as usize, height: size[1] as usize, bytes: shrunk.into_raw() })
}

#[cfg(test)]
mod tests;
