//! Pictures as files: PNG, with a word on how they came to be.

use std::io::Cursor;

use likeness_diffusion::{ModelDigest, RgbPixels};
use png::{BitDepth, ColorType, Compression, Encoder, SrgbRenderingIntent};

/// The keyword under which PNG readers look for XMP (XMP specification, part 3, 1.1.5).
const XMP_KEYWORD: &str = "XML:com.adobe.xmp";
const GENERATOR: &str = "Likeness";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a picture is, in the IPTC's vocabulary of digital source types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Drawn by a trained model: an avatar.
    Drawn,
    /// Made of photos and of drawn pictures: a contact sheet.
    Composite,
}

impl Origin {
    /// The term's address in `cv.iptc.org/newscodes/digitalsourcetype`.
    pub fn uri(self) -> &'static str {
        match self {
            Self::Drawn => "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
            Self::Composite => "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia",
        }
    }
}

/// How a picture came to be. It has no field for a name or a prompt: a picture's file tells nothing personal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// What the picture is.
    pub origin: Origin,
    /// Id of the job that made it; none where it was drawn without a service.
    pub job: Option<String>,
    /// The base model that drew it.
    pub base_model: ModelDigest,
    /// Of a preview, how many steps the vectors had been learned for; none: they were finished.
    pub preview: Option<u32>,
}

impl Provenance {
    /// The XMP packet: `DigitalSourceType` and `AISystem*` of IPTC Photo Metadata 2025.1, and `likeness:*` of ours.
    pub fn xmp(&self) -> String {
        let source = self.origin.uri();
        let job = self.job.as_deref().map(|job| format!("\n    likeness:Job=\"{}\"", escape(job))).unwrap_or_default();
        let preview = self.preview.map(|step| format!("\n    likeness:PreviewOfStep=\"{step}\"")).unwrap_or_default();
        let model = escape(self.base_model.as_ref());
        format!(
            r#"<?xpacket begin="{bom}" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:likeness="urn:likeness:provenance:1/"
    xmp:CreatorTool="{GENERATOR} {VERSION}"
    Iptc4xmpExt:DigitalSourceType="{source}"
    Iptc4xmpExt:AISystemUsed="{GENERATOR}"
    Iptc4xmpExt:AISystemVersionUsed="{VERSION}"{job}{preview}
    likeness:BaseModel="{model}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"#,
            bom = '\u{feff}',
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

/// A picture cannot become a file, or a file cannot be read as one.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// Writing failed.
    #[error("cannot write a {width} x {height} png: {source}")]
    Write {
        /// Pixels.
        width: usize,
        /// Pixels.
        height: usize,
        /// Why.
        source: png::EncodingError,
    },
    /// The file is no PNG, or a damaged one.
    #[error("cannot read the png: {0}")]
    Read(#[from] png::DecodingError),
}

/// The bytes of a PNG that shows `pixels` (sRGB) and carries `provenance`. The same arguments give the same bytes.
///
/// # Errors
/// [`PictureError::Write`] where a side is zero or does not agree with the number of bytes.
pub fn to_png(pixels: &RgbPixels, provenance: &Provenance) -> Result<Vec<u8>, PictureError> {
    let (width, height) = (pixels.width, pixels.height);
    write(pixels, provenance).map_err(|source| PictureError::Write { width, height, source })
}

fn write(pixels: &RgbPixels, provenance: &Provenance) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    // A side beyond u32 would need more memory than there is; 0 makes the encoder refuse it.
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(0);
    let mut encoder = Encoder::new(&mut bytes, side(pixels.width), side(pixels.height));
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Balanced);
    encoder.set_source_srgb(SrgbRenderingIntent::Perceptual);
    encoder.add_itxt_chunk(XMP_KEYWORD.to_owned(), provenance.xmp())?;

    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels.bytes)?;
    writer.finish()?;
    Ok(bytes)
}

/// The XMP packet of a PNG file, where it has one.
///
/// # Errors
/// [`PictureError::Read`] where the bytes are no PNG.
pub fn read_xmp(file: &[u8]) -> Result<Option<String>, PictureError> {
    let reader = png::Decoder::new(Cursor::new(file)).read_info()?;
    let texts = &reader.info().utf8_text;
    let packet = texts.iter().find(|text| text.keyword == XMP_KEYWORD);
    Ok(packet.map(|text| text.get_text()).transpose()?)
}

#[cfg(test)]
mod tests;
