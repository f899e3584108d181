//! Structure of a PNG file (W3C PNG, third edition): a signature, then chunks of length, type, data and CRC.

use fdeflate::Decompressor;

use super::{DECODER_BUDGET, PhotoError};

const SIGNATURE: usize = 8;
/// Bytes inflated at a time.
const STEP: usize = 32 << 10;

/// Refuses a file that ends before `IEND`, is animated (`acTL`), or whose compressed metadata inflates beyond the
/// budget.
pub(super) fn inspect(bytes: &[u8]) -> Result<(), PhotoError> {
    let mut budget = DECODER_BUDGET as usize;
    let mut rest = bytes.get(SIGNATURE..).unwrap_or_default();
    loop {
        let (kind, data, after) = chunk(rest).ok_or_else(|| PhotoError::Damaged("it has no end chunk".into()))?;
        match kind {
            b"IEND" => return Ok(()),
            b"acTL" => return Err(PhotoError::Animated("is an animated PNG".into())),
            b"iCCP" | b"zTXt" => spend(compressed_after_keyword(data), &mut budget)?,
            b"iTXt" => spend(compressed_text(data), &mut budget)?,
            _ => {}
        }
        rest = after;
    }
}

/// Splits off the first chunk: its type, its data, and what follows.
fn chunk(bytes: &[u8]) -> Option<(&[u8; 4], &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (kind, rest) = rest.split_first_chunk::<4>()?;
    let (data, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    let (_crc, rest) = rest.split_at_checked(4)?;
    Some((kind, data, rest))
}

/// The zlib stream of `iCCP` and `zTXt`: keyword, zero, compression method, stream.
fn compressed_after_keyword(data: &[u8]) -> Option<&[u8]> {
    let zero = data.iter().position(|&byte| byte == 0)?;
    data.get(zero + 2..)
}

/// The zlib stream of `iTXt`, if its compression flag is set: keyword, zero, flag, method, language, zero, translated
/// keyword, zero, stream.
fn compressed_text(data: &[u8]) -> Option<&[u8]> {
    let zero = data.iter().position(|&byte| byte == 0)?;
    let (head, rest) = data.get(zero + 1..)?.split_at_checked(2)?;
    (head[0] == 1).then(|| rest.splitn(3, |&byte| byte == 0).nth(2)).flatten()
}

/// Takes what `stream` inflates to from the budget, of a broken one as far as it goes; metadata is dropped anyway.
fn spend(stream: Option<&[u8]>, budget: &mut usize) -> Result<(), PhotoError> {
    let Some(stream) = stream else { return Ok(()) };
    *budget -= inflated(stream, *budget).ok_or_else(|| PhotoError::over_budget("its compressed metadata"))?;
    Ok(())
}

/// Bytes that a zlib stream inflates to before it ends or breaks, to the last full step; none if they are more than `most`.
fn inflated(stream: &[u8], most: usize) -> Option<usize> {
    let mut decoder = Decompressor::new();
    let mut output = vec![0; STEP.min(most)];
    let (mut read, mut written) = (0, 0);
    loop {
        let Ok((consumed, produced)) = decoder.read(&stream[read..], &mut output, written, true) else {
            return Some(written);
        };
        (read, written) = (read + consumed, written + produced);
        if decoder.is_done() {
            return Some(written);
        }
        if written == most {
            return None;
        }
        output.resize((written + STEP).min(most), 0);
    }
}
