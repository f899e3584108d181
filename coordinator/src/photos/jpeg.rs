//! Structure of a JPEG file (ITU-T T.81, annex B): marker segments, with entropy-coded data after each `SOS`.
//! The decoder fills a file that ends early with grey and says nothing, so the end is looked for here.

use super::PhotoError;

const SOS: u8 = 0xDA;
const EOI: u8 = 0xD9;

/// Scans of one picture; a progressive one has some ten. The decoder goes over all pixels for each, and one that says
/// nothing takes a hundred bytes.
const MAX_SCANS: usize = 100;

/// Refuses a file that has no end-of-image marker after its last scan, or more scans than a picture needs.
pub(super) fn inspect(bytes: &[u8]) -> Result<(), PhotoError> {
    let mut rest = bytes.get(2..).unwrap_or_default();
    let mut scans = 0;
    loop {
        let (marker, after) = next_marker(rest).ok_or_else(|| PhotoError::Damaged("it has no end marker".into()))?;
        match marker {
            EOI if scans > 0 => return Ok(()),
            EOI => return Err(PhotoError::Damaged("it has no picture data".into())),
            0x01 | 0xD0..=0xD8 => rest = after,
            _ => {
                scans += usize::from(marker == SOS);
                if scans > MAX_SCANS {
                    let message = format!("has more than {MAX_SCANS} scans; save it again in a common way");
                    return Err(PhotoError::TooLarge(message));
                }
                rest = skip_segment(after).ok_or_else(|| PhotoError::Damaged("a segment is cut off".into()))?;
            }
        }
    }
}

/// The next marker's code and what follows it. Within entropy-coded data, `FF 00` is a stuffed byte and no marker.
fn next_marker(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let at = bytes.windows(2).position(|pair| pair[0] == 0xFF && pair[1] != 0x00 && pair[1] != 0xFF)?;
    Some((bytes[at + 1], &bytes[at + 2..]))
}

/// Skips a segment's length field and what it counts.
fn skip_segment(bytes: &[u8]) -> Option<&[u8]> {
    let length = u16::from_be_bytes(*bytes.first_chunk::<2>()?);
    bytes.get(usize::from(length)..)
}
