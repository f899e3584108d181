//! From the bytes of a file to the bytes that are stored.

use std::io::Cursor;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::imageops::FilterType::Lanczos3;
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageError, ImageReader, Limits, RgbImage};

use likeness_proto::MAX_PHOTO_BYTES;

use super::{DECODER_BUDGET, MAX_SIDE, PhotoError, STORED_SIDE, inspect};

/// A photo as it is stored: upright, RGB, PNG, without metadata.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    pub(crate) png: Vec<u8>,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// It had transparent pixels, which were laid on white.
    pub(crate) was_transparent: bool,
}

impl Picture {
    /// Decodes a file under the limits of this module. Takes up to seconds of CPU: not for an async thread.
    pub(crate) fn from_file(bytes: &[u8]) -> Result<Self, PhotoError> {
        if bytes.len() as u64 > MAX_PHOTO_BYTES {
            return Err(PhotoError::too_many_bytes(bytes.len() as u64));
        }
        inspect(bytes)?;
        let (decoded, orientation) = pixels(bytes).map_err(from_decoder)?;
        let (flat, was_transparent) = on_white(decoded);
        let mut upright = DynamicImage::ImageRgb8(fit(flat));
        upright.apply_orientation(orientation);
        let upright = upright.into_rgb8();
        let (width, height) = upright.dimensions();
        Ok(Self { png: encode(&upright)?, width, height, was_transparent })
    }
}

fn pixels(bytes: &[u8]) -> Result<(DynamicImage, image::metadata::Orientation), ImageError> {
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(DECODER_BUDGET);

    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    limits.reserve(decoder.total_bytes())?;
    decoder.set_limits(limits)?;
    // Unreadable EXIF says nothing about the picture, which is then taken as it lies.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    Ok((DynamicImage::from_decoder(decoder)?, orientation))
}

fn from_decoder(error: ImageError) -> PhotoError {
    match error {
        ImageError::Limits(limit) => match limit.kind() {
            image::error::LimitErrorKind::DimensionError => {
                PhotoError::TooLarge(format!("has more than {MAX_SIDE} pixels on a side"))
            }
            _ => PhotoError::over_budget("its pixels"),
        },
        ImageError::Decoding(_) | ImageError::IoError(_) => PhotoError::Damaged(error.to_string()),
        ImageError::Unsupported(_) | ImageError::Encoding(_) | ImageError::Parameter(_) => {
            PhotoError::NotAnImage(error.to_string())
        }
    }
}

/// Lays transparent pixels on white; tells whether there were any.
fn on_white(decoded: DynamicImage) -> (RgbImage, bool) {
    if !decoded.color().has_alpha() {
        return (decoded.into_rgb8(), false);
    }
    let rgba = decoded.into_rgba8();
    let was_transparent = rgba.pixels().any(|pixel| pixel.0[3] != u8::MAX);
    let blend = |value: u8, alpha: u16| ((u16::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
    let flat = RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0;
        image::Rgb([r, g, b].map(|value| blend(value, u16::from(a))))
    });
    (flat, was_transparent)
}

/// Shrinks to [`STORED_SIDE`] on the long side; never enlarges.
fn fit(picture: RgbImage) -> RgbImage {
    let (width, height) = picture.dimensions();
    if width.max(height) <= STORED_SIDE {
        return picture;
    }
    DynamicImage::ImageRgb8(picture).resize(STORED_SIDE, STORED_SIDE, Lanczos3).into_rgb8()
}

fn encode(picture: &RgbImage) -> Result<Vec<u8>, PhotoError> {
    let mut png = Vec::new();
    PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Adaptive)
        .write_image(picture.as_raw(), picture.width(), picture.height(), ExtendedColorType::Rgb8)
        .map_err(|error| PhotoError::Damaged(error.to_string()))?;
    Ok(png)
}
