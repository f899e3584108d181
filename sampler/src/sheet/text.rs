//! Text on a contact sheet: measuring, wrapping, drawing. A character that the font lacks is drawn as its empty box.

use ab_glyph::{Font, FontRef, InvalidFont, PxScale, ScaleFont, point};

use super::canvas::{Canvas, Colour};

pub(super) const REGULAR: &[u8] = include_bytes!("../../assets/DejaVuSans-subset.ttf");
const BOLD: &[u8] = include_bytes!("../../assets/DejaVuSans-Bold-subset.ttf");
const ELLIPSIS: char = '…';

/// A font at a size.
pub(super) struct Face {
    font: FontRef<'static>,
    /// Pixels from the highest ascender to the lowest descender.
    scale: PxScale,
}

impl Face {
    /// For captions and notes; `size` in pixels from ascender to descender.
    pub(super) fn regular(size: f32) -> Result<Self, InvalidFont> {
        Ok(Self { font: FontRef::try_from_slice(REGULAR)?, scale: PxScale::from(size) })
    }

    /// For headings.
    pub(super) fn bold(size: f32) -> Result<Self, InvalidFont> {
        Ok(Self { font: FontRef::try_from_slice(BOLD)?, scale: PxScale::from(size) })
    }

    /// Width of one line of text, pixels.
    pub(super) fn width(&self, text: &str) -> f32 {
        self.advances(text).last().map_or(0.0, |(_, _, end)| end)
    }

    /// Breaks a text into at most `lines` lines of at most `width` pixels; what does not fit ends in an ellipsis.
    pub(super) fn wrap(&self, text: &str, width: f32, lines: usize) -> Vec<String> {
        let mut wrapped: Vec<String> = Vec::new();
        for part in text.split_whitespace().flat_map(|word| self.parts(word, width)) {
            match wrapped.last_mut() {
                Some(line) if self.width(&format!("{line} {part}")) <= width => *line = format!("{line} {part}"),
                _full_or_none => wrapped.push(part),
            }
        }
        if wrapped.len() > lines {
            wrapped.truncate(lines);
            let last = wrapped.pop().map(|last| self.ellipsise(last, width));
            wrapped.extend(last);
        }
        wrapped
    }

    /// A word, broken where it is wider than a line.
    fn parts(&self, word: &str, width: f32) -> Vec<String> {
        let mut parts: Vec<String> = Vec::new();
        for letter in word.chars() {
            match parts.last_mut() {
                Some(part) if self.width(&format!("{part}{letter}")) <= width => part.push(letter),
                _full_or_none => parts.push(letter.to_string()),
            }
        }
        parts
    }

    fn ellipsise(&self, mut line: String, width: f32) -> String {
        while !line.is_empty() && self.width(&format!("{line}{ELLIPSIS}")) > width {
            line.pop();
        }
        format!("{}{ELLIPSIS}", line.trim_end())
    }

    /// Draws one line whose top left corner is at (`x`, `y`), and returns where it ends.
    pub(super) fn draw(&self, canvas: &mut Canvas, x: f32, y: f32, text: &str, colour: Colour) -> f32 {
        let baseline = y + self.font.as_scaled(self.scale).ascent();
        let mut end = x;
        for (letter, start, stop) in self.advances(text) {
            let glyph = self.font.glyph_id(letter).with_scale_and_position(self.scale, point(x + start, baseline));
            if let Some(outline) = self.font.outline_glyph(glyph) {
                let corner = outline.px_bounds().min;
                outline.draw(|dx, dy, cover| {
                    canvas.blend(corner.x as i64 + i64::from(dx), corner.y as i64 + i64::from(dy), colour, cover);
                });
            }
            end = x + stop;
        }
        end
    }

    /// Each drawn character with where it starts and ends, pixels from the line's start.
    fn advances<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (char, f32, f32)> + 'a {
        let font = self.font.as_scaled(self.scale);
        let (mut previous, mut x) = (None, 0.0);
        text.chars().filter(|letter| !letter.is_control()).map(move |letter| {
            let id = font.glyph_id(letter);
            let start = x + previous.map_or(0.0, |before| font.kern(before, id));
            previous = Some(id);
            x = start + font.h_advance(id);
            (letter, start, x)
        })
    }
}

#[cfg(test)]
mod tests;
