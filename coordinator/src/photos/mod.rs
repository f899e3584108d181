//! Photos as they come in: the only place that reads bytes of strangers. Whatever a file claims, it is inspected before
//! it is decoded, decoded under limits, and leaves as an upright RGB PNG without metadata.

mod batch;
mod decode;
mod jpeg;
mod png;
mod webp;

#[cfg(test)]
mod tests;

pub(crate) use batch::Batch;
pub(crate) use decode::Picture;

use likeness_proto::{ErrorCode, MAX_PHOTO_BYTES};

/// Pixels of a side, before decoding.
pub const MAX_SIDE: u32 = 8192;
/// Bytes a decoder may hold: pixels, or inflated metadata.
pub const DECODER_BUDGET: u64 = 64 << 20;
/// Pixels of the long side of a stored photo.
pub const STORED_SIDE: u32 = 2048;
/// Photos of one upload.
pub const MAX_PHOTOS: usize = 200;

/// Why a file is no photo we take; the caller adds which file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PhotoError {
    #[error("is no PNG, JPEG or WebP ({0}); send one of those")]
    NotAnImage(String),
    #[error("is damaged or ends early: {0}")]
    Damaged(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}; send a single picture")]
    Animated(String),
}

impl PhotoError {
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::NotAnImage(_) => ErrorCode::NotAnImage,
            Self::Damaged(_) => ErrorCode::ImageDamaged,
            Self::TooLarge(_) => ErrorCode::ImageTooLarge,
            Self::Animated(_) => ErrorCode::ImageAnimated,
        }
    }

    /// The file has more bytes than is accepted.
    pub(crate) fn too_many_bytes(size: u64) -> Self {
        let mib = MAX_PHOTO_BYTES >> 20;
        Self::TooLarge(format!("has {size} bytes; at most {MAX_PHOTO_BYTES} ({mib} MiB) are accepted"))
    }

    /// The picture has more pixels than is accepted.
    fn too_many_pixels(width: u32, height: u32) -> Self {
        Self::TooLarge(format!("has {width}x{height} pixels; a side may have at most {MAX_SIDE}"))
    }

    /// Decoding would take more memory than is accepted.
    fn over_budget(what: &str) -> Self {
        let mib = DECODER_BUDGET >> 20;
        Self::TooLarge(format!("{what} need more than the {mib} MiB that decoding may take; send a smaller copy"))
    }
}

/// What a file claims to hold, after a look at its structure alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Png,
    Jpeg,
    Webp,
}

/// Looks at the structure of a file without decoding pixels: which format it is, that it is whole, that it holds one
/// picture, and that nothing beside the pixels inflates beyond the budget.
fn inspect(bytes: &[u8]) -> Result<Container, PhotoError> {
    match image::guess_format(bytes) {
        Ok(image::ImageFormat::Png) => png::inspect(bytes).map(|()| Container::Png),
        Ok(image::ImageFormat::Jpeg) => jpeg::inspect(bytes).map(|()| Container::Jpeg),
        Ok(image::ImageFormat::WebP) => webp::inspect(bytes).map(|()| Container::Webp),
        Ok(image::ImageFormat::Gif) => Err(PhotoError::Animated("is a GIF, a format of animations".into())),
        Ok(other) => Err(PhotoError::NotAnImage(format!("it looks like {other:?}"))),
        Err(_) if bytes.is_empty() => Err(PhotoError::NotAnImage("it is empty".into())),
        Err(_) => Err(PhotoError::NotAnImage("its content is of no known picture format".into())),
    }
}

fn check_side(width: u32, height: u32) -> Result<(), PhotoError> {
    if width > MAX_SIDE || height > MAX_SIDE { Err(PhotoError::too_many_pixels(width, height)) } else { Ok(()) }
}
