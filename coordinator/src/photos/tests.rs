use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use likeness_proto::v1::{ErrorCode, WarningCode};
use likeness_proto::{MAX_PHOTO_BYTES, PhotoHeader, Refusal};

use super::*;

/// A picture without symmetry: red to the right, green downwards.
fn gradient(width: u32, height: u32) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, 40])).into()
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn png(width: u32, height: u32) -> Vec<u8> {
    encoded(&gradient(width, height), ImageFormat::Png)
}

/// A chunk as the PNG format wants it, with its CRC.
fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = u32::MAX;
    for byte in kind.iter().chain(data) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    [&(data.len() as u32).to_be_bytes(), kind.as_slice(), data, &(!crc).to_be_bytes()].concat()
}

/// Puts a chunk between the header and the picture data.
fn with_chunk(png: &[u8], kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    const AFTER_HEADER: usize = 8 + 25;
    [&png[..AFTER_HEADER], &png_chunk(kind, data), &png[AFTER_HEADER..]].concat()
}

/// A zlib stream that inflates to `length` zeros: a thousandth of that in the file.
fn bomb(length: u64) -> Vec<u8> {
    let stream = fdeflate::compress_to_vec(&vec![0; length as usize]);
    assert!((stream.len() as u64) < length / 100, "{} bytes are no bomb", stream.len());
    stream
}

/// A RIFF chunk.
fn riff_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let padding = vec![0; data.len() % 2];
    [kind.as_slice(), &(data.len() as u32).to_le_bytes(), data, &padding].concat()
}

/// A TIFF block with nothing but an orientation.
fn exif(orientation: u8) -> Vec<u8> {
    let entry = [0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0];
    [b"II*\0\x08\0\0\0\x01\0".as_slice(), &entry, &[0; 4]].concat()
}

/// Puts an EXIF segment behind a JPEG's first marker.
fn jpeg_with_exif(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let body = [b"Exif\0\0".as_slice(), &exif(orientation)].concat();
    let length = (body.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xFF, 0xE1], &length, &body, &jpeg[2..]].concat()
}

fn stored(bytes: &[u8]) -> (Picture, RgbImage) {
    let picture = Picture::from_file(bytes).unwrap();
    let pixels = image::load_from_memory_with_format(&picture.png, ImageFormat::Png).unwrap();
    assert_eq!(pixels.color(), image::ColorType::Rgb8);
    (picture, pixels.into_rgb8())
}

fn refused(bytes: &[u8]) -> (ErrorCode, String) {
    let error = Picture::from_file(bytes).expect_err("the file must be refused");
    (error.code(), error.to_string())
}

#[test]
fn a_png_keeps_its_pixels() {
    let (picture, pixels) = stored(&png(40, 30));
    assert_eq!((picture.width, picture.height, picture.was_transparent), (40, 30, false));
    assert_eq!(pixels, gradient(40, 30).into_rgb8());
}

#[test]
fn a_jpeg_and_a_webp_are_taken() {
    assert_eq!(stored(&encoded(&gradient(64, 48), ImageFormat::Jpeg)).1.dimensions(), (64, 48));
    assert_eq!(stored(&encoded(&gradient(64, 48), ImageFormat::WebP)).1, gradient(64, 48).into_rgb8());
}

#[test]
fn grey_and_sixteen_bit_pictures_become_rgb() {
    stored(&encoded(&DynamicImage::ImageLuma8(gradient(8, 8).into_luma8()), ImageFormat::Png));
    stored(&encoded(&DynamicImage::ImageRgb16(gradient(8, 8).into_rgb16()), ImageFormat::Png));
}

#[test]
fn a_large_picture_is_stored_smaller() {
    let (picture, _) = stored(&png(3000, 1000));
    assert_eq!((picture.width, picture.height), (2048, 683));
}

#[test]
fn the_same_file_is_stored_as_the_same_bytes() {
    assert_eq!(stored(&png(33, 21)).0.png, stored(&png(33, 21)).0.png);
}

#[test]
fn nothing_of_the_metadata_is_stored() {
    let secret = b"Comment\0taken at home";
    let (picture, _) = stored(&with_chunk(&png(16, 16), b"tEXt", secret));
    assert!(!picture.png.windows(4).any(|window| window == b"home" || window == b"tEXt"));
}

#[test]
fn an_exif_rotated_jpeg_is_stored_upright() {
    let upright = encoded(&gradient(64, 32), ImageFormat::Jpeg);
    let (picture, pixels) = stored(&jpeg_with_exif(&upright, 6)); // turn by 90 degrees clockwise
    assert_eq!((picture.width, picture.height), (32, 64));
    let [top, bottom] = [pixels.get_pixel(16, 2), pixels.get_pixel(16, 61)];
    assert!(
        top.0[0] < 40 && bottom.0[0] > 215,
        "red grew to the right and must now grow downwards: {top:?} {bottom:?}"
    );
}

#[test]
fn an_exif_rotated_png_is_stored_upright() {
    let (picture, _) = stored(&with_chunk(&png(20, 10), b"eXIf", &exif(8)));
    assert_eq!((picture.width, picture.height), (10, 20));
}

#[test]
fn transparent_pixels_are_laid_on_white() {
    let glass = RgbaImage::from_fn(4, 4, |x, _| if x < 2 { Rgba([200, 0, 0, 0]) } else { Rgba([200, 0, 0, 255]) });
    let (picture, pixels) = stored(&encoded(&glass.into(), ImageFormat::Png));
    assert!(picture.was_transparent);
    assert_eq!((pixels.get_pixel(0, 0).0, pixels.get_pixel(3, 0).0), ([255, 255, 255], [200, 0, 0]));
}

#[test]
fn an_opaque_alpha_channel_is_nothing_to_warn_of() {
    let opaque = RgbaImage::from_pixel(4, 4, Rgba([1, 2, 3, 255]));
    assert!(!stored(&encoded(&opaque.into(), ImageFormat::Png)).0.was_transparent);
}

#[test]
fn text_is_not_an_image() {
    assert_eq!(refused(b"dear diary").0, ErrorCode::NotAnImage);
}

#[test]
fn an_empty_file_is_not_an_image() {
    let (code, message) = refused(b"");
    assert_eq!(code, ErrorCode::NotAnImage);
    assert!(message.contains("empty"), "{message}");
}

#[test]
fn another_picture_format_is_named() {
    let (code, message) = refused(b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0");
    assert_eq!(code, ErrorCode::NotAnImage);
    assert!(message.contains("Bmp"), "{message}");
}

#[test]
fn a_truncated_png_is_damaged_wherever_it_ends() {
    let whole = png(32, 32);
    for end in (8..whole.len()).step_by(7) {
        assert_eq!(refused(&whole[..end]).0, ErrorCode::ImageDamaged, "cut at {end} of {}", whole.len());
    }
}

#[test]
fn a_truncated_jpeg_is_damaged_wherever_it_ends() {
    let whole = jpeg_with_exif(&encoded(&gradient(32, 32), ImageFormat::Jpeg), 1);
    for end in (4..whole.len() - 1).step_by(7) {
        assert_eq!(refused(&whole[..end]).0, ErrorCode::ImageDamaged, "cut at {end} of {}", whole.len());
    }
}

#[test]
fn a_truncated_webp_is_damaged_wherever_it_ends() {
    let whole = encoded(&gradient(32, 32), ImageFormat::WebP);
    for end in (12..whole.len()).step_by(7) {
        assert_eq!(refused(&whole[..end]).0, ErrorCode::ImageDamaged, "cut at {end} of {}", whole.len());
    }
}

#[test]
fn a_png_with_a_flipped_bit_is_damaged() {
    let mut bytes = png(32, 32);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    assert_eq!(refused(&bytes).0, ErrorCode::ImageDamaged);
}

#[test]
fn bytes_beyond_the_cap_are_refused_before_decoding() {
    let bytes = vec![0; MAX_PHOTO_BYTES as usize + 1];
    assert_eq!(refused(&bytes).0, ErrorCode::ImageTooLarge);
}

#[test]
fn a_side_beyond_the_limit_is_refused() {
    let wide = DynamicImage::ImageLuma8(image::GrayImage::new(MAX_SIDE + 1, 1));
    let (code, message) = refused(&encoded(&wide, ImageFormat::Png));
    assert_eq!(code, ErrorCode::ImageTooLarge);
    assert!(message.contains("8192"), "{message}");
}

#[test]
fn pixels_beyond_the_budget_are_refused_even_within_the_side_limit() {
    // All zeros: 192 MiB of pixels in some 200 KB of file.
    let bomb = encoded(&DynamicImage::new_rgb8(8192, 8192), ImageFormat::Png);
    assert!(bomb.len() < 1 << 20);
    let (code, message) = refused(&bomb);
    assert_eq!(code, ErrorCode::ImageTooLarge);
    assert!(message.contains("pixels") && message.contains("64 MiB"), "{message}");
}

#[test]
fn a_bomb_in_compressed_text_is_refused() {
    let chunk = [b"Comment\0\0".as_slice(), &bomb(DECODER_BUDGET + 1)].concat();
    assert_eq!(refused(&with_chunk(&png(8, 8), b"zTXt", &chunk)).0, ErrorCode::ImageTooLarge);
}

#[test]
fn many_small_bombs_share_one_budget() {
    let chunk = [b"Comment\0\0".as_slice(), &bomb(DECODER_BUDGET / 3 + 1)].concat();
    let two = with_chunk(&with_chunk(&png(8, 8), b"zTXt", &chunk), b"zTXt", &chunk);
    stored(&two);
    assert_eq!(refused(&with_chunk(&two, b"zTXt", &chunk)).0, ErrorCode::ImageTooLarge);
}

#[test]
fn broken_bombs_cost_as_much_as_whole_ones() {
    let mut chunk = [b"Comment\0\0".as_slice(), &bomb(DECODER_BUDGET / 5 * 2)].concat();
    *chunk.last_mut().unwrap() ^= 1; // the checksum
    let two = with_chunk(&with_chunk(&png(8, 8), b"zTXt", &chunk), b"zTXt", &chunk);
    stored(&two);
    assert_eq!(refused(&with_chunk(&two, b"zTXt", &chunk)).0, ErrorCode::ImageTooLarge);
}

#[test]
fn a_jpeg_of_endless_scans_is_refused() {
    let jpeg = encoded(&gradient(8, 8), ImageFormat::Jpeg);
    let scan = jpeg.windows(2).position(|marker| marker == [0xFF, 0xDA]).unwrap();
    let (head, scan, end) = (&jpeg[..scan], &jpeg[scan..jpeg.len() - 2], &jpeg[jpeg.len() - 2..]);
    let (code, message) = refused(&[head, &scan.repeat(101), end].concat());
    assert_eq!(code, ErrorCode::ImageTooLarge);
    assert!(message.contains("100 scans"), "{message}");
}

#[test]
fn a_bomb_in_international_text_is_refused() {
    let chunk = [b"Comment\0\x01\0en\0Comment\0".as_slice(), &bomb(DECODER_BUDGET + 1)].concat();
    assert_eq!(refused(&with_chunk(&png(8, 8), b"iTXt", &chunk)).0, ErrorCode::ImageTooLarge);
}

#[test]
fn a_bomb_in_the_colour_profile_is_refused() {
    let chunk = [b"sRGB\0\0".as_slice(), &bomb(DECODER_BUDGET + 1)].concat();
    assert_eq!(refused(&with_chunk(&png(8, 8), b"iCCP", &chunk)).0, ErrorCode::ImageTooLarge);
}

#[test]
fn an_animated_png_is_refused() {
    let control = [0, 0, 0, 2, 0, 0, 0, 0]; // two frames, for ever
    let (code, message) = refused(&with_chunk(&png(8, 8), b"acTL", &control));
    assert_eq!(code, ErrorCode::ImageAnimated);
    assert!(message.contains("PNG"), "{message}");
}

#[test]
fn an_animated_webp_is_refused() {
    let still = encoded(&gradient(8, 8), ImageFormat::WebP);
    let frame = [&[0; 16], &still[12..]].concat();
    let header = riff_chunk(b"VP8X", &[0x02, 0, 0, 0, 7, 0, 0, 7, 0, 0]);
    let body = [header, riff_chunk(b"ANIM", &[0; 6]), riff_chunk(b"ANMF", &frame)].concat();
    let file = riff_chunk(b"RIFF", &[b"WEBP".as_slice(), &body].concat());
    assert_eq!(refused(&file).0, ErrorCode::ImageAnimated);
}

#[test]
fn a_gif_is_refused() {
    let gif = encoded(&gradient(8, 8), ImageFormat::Gif);
    assert_eq!(refused(&gif).0, ErrorCode::ImageAnimated);
}

#[test]
fn a_webp_whose_bitstream_is_larger_than_its_canvas_says_is_refused() {
    let mut still = encoded(&gradient(8, 8), ImageFormat::WebP);
    assert_eq!(&still[12..16], b"VP8L");
    still[21..25].copy_from_slice(&(0x3FFF_u32 | 0x3FFF << 14).to_le_bytes());
    assert_eq!(refused(&still).0, ErrorCode::ImageTooLarge);
}

fn batch() -> Batch {
    Batch::new("acme".parse().unwrap(), "ada".parse().unwrap())
}

fn header(name: &str) -> PhotoHeader {
    PhotoHeader { file_name: name.into(), size: 1, caption: None }
}

#[test]
fn every_bad_file_is_listed_and_the_first_gives_the_code() {
    let mut batch = batch();
    assert!(batch.add(header("good.png"), Picture::from_file(&png(8, 8))).is_some());
    batch.add(header("cut.png"), Picture::from_file(&png(8, 8)[..40]));
    batch.add(header("note.txt"), Picture::from_file(b"hello"));
    batch.refuse(Refusal::new(ErrorCode::ImageTooLarge, "photo \"huge.png\" has too many bytes"));
    assert!(batch.add(header("late.png"), Picture::from_file(&png(9, 9))).is_none(), "nothing is kept");
    let refusal = batch.finish().unwrap_err();
    assert_eq!(refusal.code, ErrorCode::ImageDamaged);
    for bad in ["cut.png", "note.txt", "huge.png"] {
        assert!(refusal.message.contains(bad), "{}", refusal.message);
    }
    assert!(!refusal.message.contains("good.png"), "{}", refusal.message);
}

#[test]
fn a_photo_is_stored_under_the_digest_of_its_bytes() {
    let mut batch = batch();
    let (photo, bytes) = batch.add(header("a.png"), Picture::from_file(&png(8, 6))).unwrap();
    assert_eq!(photo.object, likeness_proto::ObjectRef::of(photo.object.key.clone(), &bytes));
    assert_eq!(photo.object.key.to_string(), format!("v1/acme/ada/photos/{}.png", photo.object.sha256));
    assert_eq!((photo.file_name.as_str(), photo.width, photo.height), ("a.png", 8, 6));
}

#[test]
fn the_same_picture_twice_is_kept_once_and_said() {
    let mut batch = batch();
    assert!(batch.add(header("a.png"), Picture::from_file(&png(8, 8))).is_some());
    assert!(batch.add(header("copy.png"), Picture::from_file(&png(8, 8))).is_none());
    batch.add(header("b.png"), Picture::from_file(&png(9, 8)));
    let (photos, warnings) = batch.finish().unwrap();
    assert_eq!(photos.iter().map(|photo| photo.file_name.as_str()).collect::<Vec<_>>(), ["a.png", "b.png"]);
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].code(), WarningCode::DuplicatePhoto);
    assert!(warnings[0].message.contains("copy.png") && warnings[0].message.contains("a.png"));
}

#[test]
fn a_single_photo_is_taken_with_a_warning() {
    let mut batch = batch();
    batch.add(header("only.png"), Picture::from_file(&png(8, 8)));
    assert_eq!(batch.finish().unwrap().1[0].code(), WarningCode::SinglePhoto);
}

#[test]
fn no_photo_at_all_is_refused() {
    assert_eq!(batch().finish().unwrap_err().code, ErrorCode::NoPhotos);
}

#[test]
fn more_photos_than_an_upload_may_have_are_refused() {
    let mut batch = batch();
    for _ in 0..MAX_PHOTOS {
        batch.room().unwrap();
        batch.refuse(Refusal::new(ErrorCode::NotAnImage, "no image"));
    }
    assert_eq!(batch.room().unwrap_err().code, ErrorCode::InvalidArgument);
}
