//! The surface that a contact sheet is painted on.

use likeness_diffusion::RgbPixels;

use super::layout::Rect;

/// How dark a picture's outline is, 0 to 1.
const OUTLINE: f32 = 0.12;

/// sRGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Colour(pub(super) [u8; 3]);

/// 8-bit RGB; what falls outside is dropped.
pub(super) struct Canvas {
    width: usize,
    height: usize,
    bytes: Vec<u8>,
}

impl Canvas {
    /// One colour all over.
    pub(super) fn new(width: u32, height: u32, colour: Colour) -> Self {
        let (width, height) = (width as usize, height as usize);
        Self { width, height, bytes: colour.0.repeat(width * height) }
    }

    /// Mixes a colour into a pixel; `cover` from 0 (nothing) to 1 (the colour alone).
    pub(super) fn blend(&mut self, x: i64, y: i64, colour: Colour, cover: f32) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        if x >= self.width || y >= self.height {
            return;
        }
        let pixel = &mut self.bytes[3 * (y * self.width + x)..][..3];
        for (under, over) in pixel.iter_mut().zip(colour.0) {
            *under = (f32::from(*under) + (f32::from(over) - f32::from(*under)) * cover.clamp(0.0, 1.0)).round() as u8;
        }
    }

    /// Fills a rectangle.
    pub(super) fn fill(&mut self, rect: Rect, colour: Colour) {
        for y in rect.y..rect.bottom() {
            for x in rect.x..rect.x + rect.width {
                self.blend(x.into(), y.into(), colour, 1.0);
            }
        }
    }

    /// Puts a picture into the middle of a rectangle, its corners rounded by `radius` pixels. A faint outline shows where
    /// it ends on paper of its own colour.
    pub(super) fn place(&mut self, rect: Rect, picture: &RgbPixels, radius: f32) {
        let (width, height) = (picture.width as i64, picture.height as i64);
        let left = i64::from(rect.x) + (i64::from(rect.width) - width) / 2;
        let top = i64::from(rect.y) + (i64::from(rect.height) - height) / 2;
        let (rows, size) = (picture.bytes.chunks_exact(3 * picture.width), [width as f32, height as f32]);
        for (y, row) in (0_i64..).zip(rows) {
            for (x, pixel) in (0_i64..).zip(row.chunks_exact(3)) {
                let (dx, dy) = (x as f32 + 0.5, y as f32 + 0.5);
                let cover = rounded([dx, dy], size, radius);
                let inside = rounded([dx - 1.0, dy - 1.0], size.map(|side| side - 2.0), radius - 1.0);
                self.blend(left + x, top + y, Colour([pixel[0], pixel[1], pixel[2]]), cover);
                self.blend(left + x, top + y, Colour([0; 3]), OUTLINE * (cover - inside));
            }
        }
    }

    /// The finished picture.
    pub(super) fn into_pixels(self) -> RgbPixels {
        RgbPixels { width: self.width, height: self.height, bytes: self.bytes }
    }
}

/// How much of the pixel around `point` lies within a rounded rectangle of `size`, from its distance to the edge.
fn rounded(point: [f32; 2], size: [f32; 2], radius: f32) -> f32 {
    let beyond = |axis: usize| ((point[axis] - size[axis] / 2.0).abs() - (size[axis] / 2.0 - radius)).max(0.0);
    (radius - beyond(0).hypot(beyond(1)) + 0.5).clamp(0.0, 1.0)
}
