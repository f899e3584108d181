use likeness_diffusion::RgbPixels;

use super::*;

fn digest() -> ModelDigest {
    format!("sha256:{}", "5e".repeat(32)).parse().unwrap()
}

fn avatar() -> Provenance {
    let job = Some("01936f2b-0000-7000-8000-000000000001".to_owned());
    Provenance { origin: Origin::Drawn, job, base_model: digest(), preview: None }
}

fn pixels() -> RgbPixels {
    RgbPixels { width: 5, height: 3, bytes: (0..45).map(|value| value * 5).collect() }
}

#[test]
fn an_avatar_says_what_it_is() {
    let xmp = read_xmp(&to_png(&pixels(), &avatar()).unwrap()).unwrap().unwrap();

    for said in [
        "Iptc4xmpExt:DigitalSourceType=\"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia\"",
        "likeness:Job=\"01936f2b-0000-7000-8000-000000000001\"",
        &format!("likeness:BaseModel=\"{}\"", digest()),
        &format!("xmp:CreatorTool=\"Likeness {}\"", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(xmp.contains(said), "{said} is missing in {xmp}");
    }
}

#[test]
fn the_packet_is_where_png_readers_look_for_xmp() {
    let file = to_png(&pixels(), &avatar()).unwrap();
    // Keyword, end of keyword, not compressed, compression method, no language, no translated keyword.
    let start = [b"iTXtXML:com.adobe.xmp".as_slice(), &[0; 5], "<?xpacket begin=\"\u{feff}\"".as_bytes()].concat();

    let at = |what: &[u8]| file.windows(what.len()).position(|bytes| bytes == what);
    assert!(at(&start).unwrap() < at(b"IDAT").unwrap());
}

#[test]
fn a_picture_without_a_job_names_none() {
    let xmp = Provenance { job: None, ..avatar() }.xmp();

    assert!(!xmp.contains("Job"), "{xmp}");
}

#[test]
fn a_preview_says_of_which_step_it_is() {
    assert!(!avatar().xmp().contains("Preview"));
    let xmp = Provenance { preview: Some(120), ..avatar() }.xmp();

    assert!(xmp.contains("likeness:PreviewOfStep=\"120\""), "{xmp}");
}

#[test]
fn a_contact_sheet_is_a_composite() {
    let xmp = Provenance { origin: Origin::Composite, ..avatar() }.xmp();

    assert!(xmp.contains("digitalsourcetype/compositeWithTrainedAlgorithmicMedia\""), "{xmp}");
}

#[test]
fn markup_in_a_value_is_escaped() {
    let xmp = Provenance { job: Some("\"/><&".to_owned()), ..avatar() }.xmp();

    assert!(xmp.contains("Job=\"&quot;/>&lt;&amp;\""), "{xmp}");
}

#[test]
fn the_pixels_come_back_as_they_were() {
    let file = to_png(&pixels(), &avatar()).unwrap();

    let shown = image::load_from_memory(&file).unwrap().into_rgb8();
    assert_eq!(shown.dimensions(), (5, 3));
    assert_eq!(shown.into_raw(), pixels().bytes);
}

#[test]
fn the_same_picture_gives_the_same_bytes() {
    assert_eq!(to_png(&pixels(), &avatar()).unwrap(), to_png(&pixels(), &avatar()).unwrap());
}

#[test]
fn a_size_that_does_not_agree_with_the_bytes_is_refused() {
    let error = to_png(&RgbPixels { width: 6, ..pixels() }, &avatar()).unwrap_err();

    assert!(error.to_string().starts_with("cannot write a 6 x 3 png"), "{error}");
}

#[test]
fn a_file_that_is_no_png_is_refused() {
    assert!(matches!(read_xmp(b"GIF89a"), Err(PictureError::Read(_))));
}
