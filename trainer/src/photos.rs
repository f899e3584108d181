//! From a photo's bytes to what the UNet sees of it: a centred square at the training resolution, encoded once.

use candle_core::{DType, Device, Tensor};
use image::{
    ImageError, ImageReader, RgbImage,
    imageops::{FilterType, crop_imm, resize},
};
use likeness_diffusion::BaseModel;
use sha2::{Digest, Sha256};

use crate::TrainError;

/// A photo as it is learned from.
#[derive(Clone, Debug)]
pub struct Photo {
    /// What it shows, with `{subject}`; `None`: templates are used.
    pub caption: Option<String>,
    /// 8-bit RGB, row by row, `3 · side²` bytes.
    pixels: Vec<u8>,
    side: usize,
    /// Of the bytes that it was decoded from.
    sha256: [u8; 32],
}

impl Photo {
    /// Decodes `bytes` (upright, without animation: the front door has seen to that), cuts the largest centred square and
    /// resizes it to `side` pixels with a Lanczos filter. `name` is for the error.
    ///
    /// # Errors
    /// [`TrainError::BadPhoto`] when the bytes are no whole picture.
    pub fn decode(name: &str, bytes: &[u8], caption: Option<String>, side: usize) -> Result<Self, TrainError> {
        let decoded = decode(bytes).map_err(|source| TrainError::BadPhoto { name: name.to_owned(), source })?;
        Ok(Self { caption, pixels: square(&decoded, side), side, sha256: Sha256::digest(bytes).into() })
    }

    /// `(3, side, side)` in [-1, 1].
    fn tensor(&self, device: &Device) -> candle_core::Result<Tensor> {
        let pixels = Tensor::from_slice(&self.pixels, (self.side, self.side, 3), device)?;
        pixels.permute((2, 0, 1))?.to_dtype(DType::F32)?.affine(2.0 / 255.0, -1.0)
    }
}

fn decode(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    let reader = ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format()?;
    Ok(reader.decode()?.into_rgb8())
}

fn square(picture: &RgbImage, side: usize) -> Vec<u8> {
    let (width, height) = picture.dimensions();
    let shorter = width.min(height);
    let centred = crop_imm(picture, (width - shorter) / 2, (height - shorter) / 2, shorter, shorter);
    match shorter as usize == side {
        true => centred.to_image().into_raw(),
        false => resize(&*centred, side as u32, side as u32, FilterType::Lanczos3).into_raw(),
    }
}

/// A subject's photos as latents.
#[derive(Clone, Debug)]
pub struct Latents {
    /// `(n, c, h, w)`.
    pub upright: Tensor,
    /// The photos mirrored, then encoded (mirroring latents is not the same); only when they may be shown so.
    pub mirrored: Option<Tensor>,
    /// Caption of each photo.
    pub captions: Vec<Option<String>>,
    /// SHA-256 over the photos' own, in order.
    pub digest: [u8; 32],
}

impl Latents {
    /// Encodes all photos, one after the other.
    ///
    /// # Errors
    /// No photos, photos of different sizes, or a size that the VAE cannot encode.
    pub fn encode(model: &BaseModel, photos: &[Photo], flip: bool, device: &Device) -> Result<Self, TrainError> {
        let first = photos.first().ok_or(TrainError::NoPhotos)?;
        if let Some(other) = photos.iter().find(|photo| photo.side != first.side) {
            return Err(TrainError::MixedSizes { expected: first.side, found: other.side });
        }
        let (mut upright, mut mirrored, mut digest) = (Vec::new(), Vec::new(), Sha256::new());
        for photo in photos {
            let pixels = photo.tensor(device)?.unsqueeze(0)?; // (1, 3, side, side)
            upright.push(model.vae.encode(&pixels)?.detach());
            if flip {
                mirrored.push(model.vae.encode(&pixels.flip(&[3])?)?.detach());
            }
            digest.update(photo.sha256);
        }
        Ok(Self {
            upright: Tensor::cat(&upright, 0)?,
            mirrored: if flip { Some(Tensor::cat(&mirrored, 0)?) } else { None },
            captions: photos.iter().map(|photo| photo.caption.clone()).collect(),
            digest: digest.finalize().into(),
        })
    }

    /// How many photos.
    #[must_use]
    pub fn count(&self) -> usize {
        self.captions.len()
    }

    /// `(c, h, w)` of photo `index`.
    ///
    /// # Errors
    /// No such photo.
    pub fn get(&self, index: usize, mirrored: bool) -> candle_core::Result<Tensor> {
        match &self.mirrored {
            Some(latents) if mirrored => latents.get(index),
            Some(_) | None => self.upright.get(index),
        }
    }
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Rgb, RgbImage};

    use super::*;

    fn png(picture: &RgbImage) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn the_centred_square_is_kept() {
        // Red at the left and right, a blue square in the middle.
        let wide =
            RgbImage::from_fn(96, 32, |x, _| if (32..64).contains(&x) { Rgb([0, 0, 255]) } else { Rgb([255, 0, 0]) });
        let photo = Photo::decode("wide.png", &png(&wide), None, 16).unwrap();
        assert!(photo.pixels.chunks(3).all(|pixel| pixel == [0, 0, 255]), "{:?}", photo.pixels);
    }

    #[test]
    fn pixels_span_minus_one_to_one() {
        let tall = RgbImage::from_fn(8, 24, |_, y| if y < 12 { Rgb([0, 0, 0]) } else { Rgb([255, 255, 255]) });
        let pixels = Photo::decode("tall.png", &png(&tall), None, 8).unwrap().tensor(&Device::Cpu).unwrap();
        assert_eq!(pixels.dims(), [3, 8, 8]);
        let column: Vec<f32> = pixels.get(0).unwrap().transpose(0, 1).unwrap().get(3).unwrap().to_vec1().unwrap();
        assert_eq!((column[0], column[7]), (-1.0, 1.0));
    }

    #[test]
    fn what_is_no_picture_is_named() {
        let mut cut = png(&RgbImage::new(64, 64));
        cut.truncate(60);
        for bytes in [&b"hello"[..], &cut, &[]] {
            let error = Photo::decode("me.png", bytes, None, 16).unwrap_err();
            assert!(matches!(error, TrainError::BadPhoto { .. }) && error.to_string().contains("me.png"), "{error}");
        }
    }
}
