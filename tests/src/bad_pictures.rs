//! Pictures that a server must survive, made byte by byte.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, RgbImage, RgbaImage};

/// A PNG of one colour.
pub fn plain(width: u32, height: u32) -> Vec<u8> {
    encoded(RgbImage::from_pixel(width, height, image::Rgb([200, 120, 40])).into(), ImageFormat::Png)
}

/// A PNG with a transparent half.
pub fn transparent(side: u32) -> Vec<u8> {
    let half = |x, _| image::Rgba([10, 20, 30, if x < side / 2 { 0 } else { 255 }]);
    encoded(RgbaImage::from_fn(side, side, half).into(), ImageFormat::Png)
}

/// A PNG whose text chunk inflates to a quarter of a gigabyte.
pub fn metadata_bomb() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 8, 8);
    encoder.set_color(png::ColorType::Rgb);
    encoder.add_ztxt_chunk("Comment".into(), "0".repeat(256 << 20)).expect("a chunk");
    encoder.write_header().expect("a header").write_image_data(&[0; 8 * 8 * 3]).expect("pixels");
    bytes
}

/// A PNG of two frames.
pub fn animated() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 64, 64);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_animated(2, 0).expect("two frames");
    let mut writer = encoder.write_header().expect("a header");
    for shade in [0, 255] {
        writer.write_image_data(&[shade; 64 * 64 * 3]).expect("a frame");
    }
    writer.finish().expect("the end");
    bytes
}

/// A JPEG that lies on its side: `width` × `height` as stored, upright after a quarter turn.
pub fn sideways(width: u32, height: u32) -> Vec<u8> {
    let jpeg = encoded(RgbImage::from_pixel(width, height, image::Rgb([90, 90, 90])).into(), ImageFormat::Jpeg);
    // APP1: "Exif", a little-endian TIFF header, one directory entry: orientation (0x0112) = 6, rotate 90° clockwise.
    let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0".to_vec();
    let length = u16::try_from(exif.len() + 2).expect("short").to_be_bytes();
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xFF, 0xE1, length[0], length[1]]);
    bytes.append(&mut exif);
    bytes.extend(&jpeg[2..]);
    bytes
}

fn encoded(picture: DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).expect("an encoder");
    bytes.into_inner()
}
