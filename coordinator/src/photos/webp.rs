//! Structure of a WebP file (RFC 9649): a RIFF of chunks.
//! The decoder believes the canvas of `VP8X` and allocates by the bitstream's own size, so both are checked here.

use super::{PhotoError, check_side};

const RIFF_HEADER: usize = 12;

/// Refuses a file that is shorter than its RIFF says, is animated, or holds a bitstream larger than is accepted.
pub(super) fn inspect(bytes: &[u8]) -> Result<(), PhotoError> {
    let cut = || PhotoError::Damaged("it is shorter than its header says".into());
    let size = bytes.get(4..8).and_then(|size| size.first_chunk()).map(|size| u32::from_le_bytes(*size));
    let end = size.and_then(|size| (size as usize).checked_add(8)).ok_or_else(cut)?;
    let mut rest = bytes.get(RIFF_HEADER..end).ok_or_else(cut)?;
    while rest.len() >= 8 {
        let (kind, data, after) = chunk(rest).ok_or_else(cut)?;
        match kind {
            b"ANIM" | b"ANMF" => return Err(PhotoError::Animated("is an animated WebP".into())),
            b"VP8 " => check_lossy(data)?,
            b"VP8L" => check_lossless(data)?,
            _ => {}
        }
        rest = after;
    }
    Ok(())
}

/// Splits off the first chunk: its type, its data, and what follows its padding.
fn chunk(bytes: &[u8]) -> Option<(&[u8; 4], &[u8], &[u8])> {
    let (kind, rest) = bytes.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let (data, rest) = rest.split_at_checked(length)?;
    Some((kind, data, rest.get(length % 2..).unwrap_or_default()))
}

/// `VP8 `: frame tag (3), start code (3), then width and height in 14 bits each.
fn check_lossy(data: &[u8]) -> Result<(), PhotoError> {
    let side = |at: usize| data.get(at..at + 2).map(|two| u32::from(u16::from_le_bytes([two[0], two[1]]) & 0x3FFF));
    match (side(6), side(8)) {
        (Some(width), Some(height)) => check_side(width, height),
        _ => Err(PhotoError::Damaged("its picture data is cut off".into())),
    }
}

/// `VP8L`: signature (1), then width - 1 and height - 1 in 14 bits each.
fn check_lossless(data: &[u8]) -> Result<(), PhotoError> {
    let bits = data.get(1..5).and_then(|bits| bits.first_chunk()).map(|bits| u32::from_le_bytes(*bits));
    let bits = bits.ok_or_else(|| PhotoError::Damaged("its picture data is cut off".into()))?;
    check_side((bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1)
}
